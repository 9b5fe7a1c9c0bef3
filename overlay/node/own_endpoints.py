"""The endpoints of this node, computed from the host's state and again after each change.

::

    listen, advertise ──┐
    own addresses ──────┤
    routes to peers ────┴─> NodeEndpoints: what is signed, where requests are taken, IP versions
             ^
    kernel ──┴─ notifications: addresses, routes, rules, devices

A node that listens on a wildcard publishes one endpoint for each IP version: the address from
which this host reaches the known peers. A host without an address or a route is no error. The node
waits until the kernel reports one.

Reasons: docs/decisions/0049.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Protocol

from overlay.addresses import (
    Endpoint,
    IpAddress,
    is_circuit_address,
    is_overlay_address,
    version_of,
)
from overlay.config import NetworkSettings
from overlay.dht.descriptor import MAX_ENDPOINTS, is_public
from overlay.errors import BackendError
from overlay.logs import EventLog
from overlay.system.host_events import (
    AddressChanged,
    HostEvent,
    LinkChanged,
    Overrun,
    RouteChanged,
    RuleChanged,
)

__all__ = ["HostAddresses", "NodeEndpoints", "OwnEndpoints", "whereabouts"]

_PEERS_TRIED: Final = 8
"""Peers of one IP version whose route is looked up until one has a route; a lookup takes 0.1 ms."""

_PEERS_LOOKED_AT: Final = 256
"""Number of known peers that are used, because 10,000 take milliseconds at each change."""

_ANYWHERE: Final = {4: Endpoint("192.0.2.1", 9), 6: Endpoint("2001:db8::1", 9)}
"""Addresses that represent the Internet; only their routes are looked up (RFC 5737, RFC 3849)."""

_log = EventLog(__name__)


class HostAddresses(Protocol):
    """The state of the host that endpoints depend on."""

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses of all devices, loopback included."""
        ...

    def address_towards(self, peer: Endpoint) -> IpAddress:
        """Return the local address of datagrams to ``peer``.

        Raises:
            BackendError: no route leads there.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeEndpoints:
    """The endpoints of this node.

    Attributes:
        published: endpoints to sign, at most ``MAX_ENDPOINTS``. It is empty if no other node
            could reach this one, for example behind NAT. Then the node offers no roles.
        own: endpoints of this host that the node listens at.
        accepted: own and published endpoints; requests to them are for this node.
        versions: IP versions over which this host reaches other nodes.
        is_routed: whether a route leads to a known peer or to any address; true on loopback.
        absent: endpoints of ``listen`` whose address this host does not have at present.
        local: IPv4 endpoints at which other hosts of the same network reach this one.
    """

    published: tuple[Endpoint, ...] = ()
    own: frozenset[Endpoint] = frozenset()
    accepted: frozenset[Endpoint] = frozenset()
    versions: frozenset[int] = frozenset()
    is_routed: bool = True
    absent: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()


def whereabouts(
    network: NetworkSettings,
    bound: Collection[Endpoint],
    known: Collection[Endpoint],
    host: HostAddresses,
) -> NodeEndpoints:
    """Return the endpoints of a node that listens at ``bound`` and knows peers at ``known``.

    Raises:
        BackendError: the addresses of the host could not be read.
    """
    own = frozenset(
        packed
        for packed in host.own_addresses()
        if not (is_overlay_address(packed) or is_circuit_address(packed))
    )
    outward = {version: _outward(version, known, host) for version in map(version_of, bound)}
    named = [each for each in bound if not each.address.is_unspecified]
    # All of 127.0.0.0/8 belongs to this host, although a device lists only one address of it.
    here = [each for each in named if each.packed in own or each.address.is_loopback]
    local = [
        *here,
        *(
            Endpoint(str(address), port.port)
            for port in bound
            if port.address.is_unspecified and (address := outward[version_of(port)]) is not None
        ),
    ]
    published = network.advertise or local
    listening = _listening(bound, own)
    versions = {version for version, address in outward.items() if address is not None}
    versions |= {version_of(each) for each in here}
    usable = [
        each
        for each in published
        if version_of(each) in versions and (network.allow_private_endpoints or is_public(each))
    ]
    return NodeEndpoints(
        published=tuple(dict.fromkeys(usable))[:MAX_ENDPOINTS],
        own=listening,
        accepted=listening | {*network.advertise},
        versions=frozenset(versions),
        is_routed=any(outward.values()) or any(each.address.is_loopback for each in here),
        absent=tuple(each for each in named if each not in here),
        local=tuple(
            each for each in local if version_of(each) == 4 and not each.address.is_loopback
        ),
    )


def _outward(version: int, known: Iterable[Endpoint], host: HostAddresses) -> IpAddress | None:
    """Return the address from which the host reaches peers of one IP version, None if none."""
    peers = (each for each in known if version_of(each) == version)
    for peer in (*islice(peers, _PEERS_TRIED), _ANYWHERE[version]):
        try:
            address = host.address_towards(peer)
        except BackendError:
            continue
        # A host with a route but without an address would use such an address.
        local_only = address.is_loopback and not peer.address.is_loopback
        if not (address.is_unspecified or address.is_link_local or local_only):
            return address
    return None


def _listening(bound: Iterable[Endpoint], own: Iterable[bytes]) -> frozenset[Endpoint]:
    found = set[Endpoint]()
    for port in bound:
        if not port.address.is_unspecified:
            found.add(port)
            continue
        size = len(port.packed)
        found |= {Endpoint.from_packed(each, port.port) for each in own if len(each) == size}
    return frozenset(found)


class OwnEndpoints:
    """The current endpoints; a part of ``overlay.node.shells.enforcement``.

    It installs nothing in the kernel. It gets the same notifications of changes as the parts that
    do.
    """

    def __init__(
        self,
        network: NetworkSettings,
        bound: Callable[[], Collection[Endpoint]],
        host: HostAddresses,
    ) -> None:
        """Prepare; nothing is known before :meth:`review`.

        Args:
            network: the configuration.
            bound: returns the endpoints that the node listens at.
            host: returns addresses and routes.
        """
        self._network = network
        self._bound = bound
        self._host = host
        self._known: Callable[[], Iterable[Endpoint]] = lambda: ()
        self._changed: Callable[[bool], None] = lambda _: None
        self._stale = False
        self.now = NodeEndpoints()

    def follow(
        self, known: Callable[[], Iterable[Endpoint]], changed: Callable[[bool], None]
    ) -> None:
        """Use the peers that ``known`` returns, and call ``changed`` after each change.

        The argument of ``changed`` tells whether other nodes should learn of the change. They must
        not learn of addresses that this host gets and loses with its circuits.
        """
        self._known, self._changed = known, changed

    def review(self) -> bool:
        """Read the host again; return whether the endpoints have changed.

        Raises:
            BackendError: the addresses of the host could not be read.
        """
        self._stale = False
        known = list(islice(chain(self._network.bootstrap, self._known()), _PEERS_LOOKED_AT))
        before, self.now = self.now, whereabouts(self._network, self._bound(), known, self._host)
        self._report(before)
        return before != self.now

    def _report(self, before: NodeEndpoints) -> None:
        if before.versions != self.now.versions:
            _log.info("network.versions", versions=len(self.now.versions))
        if self.now.absent and self.now.absent != before.absent:
            _log.warning("network.listen_address_is_missing", endpoints=len(self.now.absent))
        if not self.now.versions and before.versions:
            _log.warning("network.lost")

    def problems(self) -> tuple[str, ...]:
        """Return the problems that other nodes have with these endpoints, in sentences."""
        here = self.now
        found = [
            f"[network] listen names {each}, an address that this host does not have at present"
            for each in here.absent
        ]
        if not here.versions:
            found.append(
                "this host has no address and route towards other nodes, so the node waits for "
                "one; list them with: ip address, and with: ip route"
            )
        elif not here.is_routed:
            found.append(
                "no route leads to other nodes, so the node waits for one; look at: ip route; set "
                "the device up with: ip link set dev DEVICE up, or add the route with: ip route "
                "add default via ROUTER"
            )
        elif not here.published:
            found.append(
                "this host has no public address, so this node serves no others; if a router "
                'forwards a UDP port to it, write [network] advertise = ["ADDRESS:PORT"]'
            )
        return tuple(found)

    # -- a part of the enforcement ---------------------------------------------------------

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether a change of the host concerns endpoints."""
        relevant = (AddressChanged, RouteChanged, RuleChanged, LinkChanged, Overrun)
        self._stale = self._stale or any(isinstance(event, relevant) for event in events)

    def disturbed(self) -> bool:
        """Return False, because the kernel notifies every change."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return nothing, because this part installs nothing."""
        return ()

    def repair(self) -> tuple[str, ...]:
        """Read the host if it has changed; this is never a repair.

        Raises:
            BackendError: the addresses of the host could not be read.
        """
        before = self.now
        if self._stale and self.review():
            seen = (before.published, before.versions) != (self.now.published, self.now.versions)
            self._changed(seen)
        return ()
