"""Which endpoints, identities and contacts of other nodes this node uses.

An endpoint must be public unless the settings allow private ones. An identity must have the
cost that the network asks for. Contacts in a reply are filtered by both rules, because a node
that lies could otherwise direct lookups to arbitrary hosts.

Reasons: docs/decisions/0026.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from overlay.addresses import Endpoint, NodeId
from overlay.dht.admission import host_allowed
from overlay.dht.events import DhtCount
from overlay.dht.joining import Greeting
from overlay.dht.messages import Contact, Contacts, Reply
from overlay.dht.reach import Reach
from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity, identity_cost_bits, meets_cost

__all__ = ["Acceptance", "check_own_cost"]


class Acceptance:
    """The rules for endpoints, identities and contacts of other nodes.

    ``counts`` receives how many contacts of replies were refused.
    """

    def __init__(self, settings: DhtSettings, reach: Reach, counts: Counter[DhtCount]) -> None:
        self._cost_bits = settings.identity_cost_bits
        self._allow_private = settings.allow_private_endpoints
        self._reach = reach
        self._counts = counts

    def allows(self, endpoint: Endpoint) -> bool:
        """Tell whether this node may send to an endpoint."""
        return host_allowed(endpoint.host, self._allow_private)

    def can_send_to(self, endpoint: Endpoint) -> bool:
        """Tell whether this node may, and over its IP versions can, send to an endpoint."""
        return self.allows(endpoint) and self._reach.holds(endpoint)

    def meets_cost(self, identity_key: bytes) -> bool:
        """Tell whether an identity has the cost that the network asks for."""
        return not self._cost_bits or meets_cost(identity_key, self._cost_bits)

    def greetings(self, contacts: Iterable[Contact], own_id: NodeId) -> list[Greeting]:
        """Return greetings for the acceptable contacts, without this node itself."""
        return [
            Greeting(contact.endpoint, contact.node_id)
            for contact in contacts
            if contact.node_id != own_id
            and self.allows(contact.endpoint)
            and self.meets_cost(contact.identity_key)
        ]

    def filtered(self, reply: Reply) -> Reply:
        """Return a reply without the contacts that this node must not follow."""
        if not isinstance(reply, Contacts):
            return reply
        private, own = self._allow_private, self._reach.own
        # A reply has up to 20 contacts, so these lines take most of a lookup's CPU time.
        acceptable = [
            contact
            for contact in map(self._reach.within, reply.contacts)
            if host_allowed(contact.endpoint.host, private) and contact.endpoint not in own
        ]
        if self._cost_bits:
            acceptable = [each for each in acceptable if self.meets_cost(each.identity_key)]
        refused = reply.refused + len(reply.contacts) - len(acceptable)
        if not refused:
            return Contacts(tuple(acceptable))
        self._counts[DhtCount.REFUSED_CONTACT] += refused
        return Contacts(tuple(acceptable))


def check_own_cost(identity: LocalIdentity, cost_bits: int) -> None:
    """Check that this node's own identity has the cost that the network asks for.

    Raises:
        ConfigurationError: it costs less than ``cost_bits``.
    """
    if not meets_cost(identity.identity_key, cost_bits):
        raise ConfigurationError(
            f"[dht] identity_cost_bits asks for {cost_bits}, but this node's identity costs "
            f"{identity_cost_bits(identity.identity_key)}; move the key file away and search "
            f'for another with "overlay init --force --identity-cost-bits {cost_bits}", which '
            "writes a new configuration."
        )
