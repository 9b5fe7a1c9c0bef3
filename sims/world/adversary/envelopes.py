"""Envelopes of a malicious node: they change its replies and drop requests."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import (
    BareRequest,
    Challenge,
    Envelopes,
    UnverifiedReply,
    UnverifiedRequest,
)
from overlay.dht.messages import Reply, Request
from overlay.errors import Malformed
from overlay.identity import LocalIdentity
from sims.world.adversary.attack import Attack

__all__ = ["HostileEnvelopes"]


class HostileEnvelopes(Envelopes):
    """Envelopes of a node of the adversary, around those of an honest one."""

    def __init__(
        self,
        identity: LocalIdentity,
        network_id: str,
        honest: Envelopes,
        attacks: Sequence[Attack],
    ) -> None:
        super().__init__(identity, network_id)
        self._node_id = identity.node_id
        self._honest = honest
        self._attacks = attacks

    def request(
        self,
        request: Request,
        *,
        request_id: bytes,
        responder: NodeId | None,
        sent_to: Endpoint,
        cookie: bytes,
    ) -> bytes:
        """Return an honest request."""
        return self._honest.request(
            request, request_id=request_id, responder=responder, sent_to=sent_to, cookie=cookie
        )

    def reply(self, reply: Reply, to: UnverifiedRequest) -> bytes:
        """Return the answer of the first attack that changes the reply."""
        for attack in self._attacks:
            false = attack.reply(self._node_id, reply, to)
            if false is not None:
                return self._honest.reply(false, to)
        return self._honest.reply(reply, to)

    def challenge(self, request_id: bytes, cookie: bytes) -> bytes:
        """Return an honest challenge."""
        return self._honest.challenge(request_id, cookie)

    def bare_request(self, datagram: bytes) -> BareRequest | None:
        """Read a request without a cookie, which is never dropped."""
        return self._honest.bare_request(datagram)

    def parse(self, datagram: bytes) -> UnverifiedRequest | UnverifiedReply | Challenge:
        """Read a datagram; a request that the adversary drops counts as malformed."""
        message = self._honest.parse(datagram)
        if isinstance(message, UnverifiedRequest) and any(
            attack.drops(message) for attack in self._attacks
        ):
            raise Malformed("the adversary drops this request")
        return message
