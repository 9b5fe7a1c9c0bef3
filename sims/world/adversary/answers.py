"""False answers: envelopes that change what a node of the adversary replies.

The node runs the product's core, which answers every request. The adversary changes a reply before
it is signed, or drops a request before the core sees it. So the product needs no hook for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import (
    BareRequest,
    Challenge,
    Envelopes,
    UnverifiedReply,
    UnverifiedRequest,
)
from overlay.dht.messages import (
    Contacts,
    FindNode,
    FindRecord,
    Record,
    Reply,
    Request,
    contacts_that_fit,
)
from overlay.dht.messages import Store as StoreRequest
from overlay.errors import Malformed
from overlay.identity import LocalIdentity
from sims.world.adversary.knowledge import AdversaryKnowledge

__all__ = ["FalseAnswers", "HostileEnvelopes", "forged"]

_FLIPPED_BYTE: Final = -70
"""Index of a byte in the body, before the signature."""

RecordOf = Callable[[NodeId], bytes | None]


class FalseAnswers:
    """What one node of the adversary does with requests.

    It answers PING, STORE and LEAVE correctly, to stay in tables, and other requests falsely.
    ``record_of`` returns the true record of a node, which ``forge`` changes. ``k`` contacts are
    in an answer.
    """

    def __init__(
        self, plot: AdversaryKnowledge, record_of: RecordOf, own_id: NodeId, k: int
    ) -> None:
        self._plot = plot
        self._record_of = record_of
        self._own_id = own_id
        self._k = k

    def drops(self, request: UnverifiedRequest) -> bool:
        """Tell whether to drop a request, which is then not answered at all."""
        asked = isinstance(request.request, FindNode | FindRecord)
        may_drop = asked and "drop" in self._plot.behaviours and bool(request.cookie)
        return may_drop and self._plot.rng.random() < self._plot.drop_probability

    def bent(self, honest: Reply, to: UnverifiedRequest) -> Reply:
        """Return what to answer instead of the honest reply."""
        match to.request:
            case StoreRequest(record):
                self._plot.remember(to.sender, record)
            case FindRecord(key):
                return self._bent_record(key, honest)
            case FindNode(target) if "lie" in self._plot.behaviours:
                return self._lie(target)
            case _:
                pass
        return honest

    def _bent_record(self, key: NodeId, honest: Reply) -> Reply:
        behaviours = self._plot.behaviours
        if key != self._own_id:
            if "replay" in behaviours and key in self._plot.archive:
                return Record(self._plot.archive[key])
            record = self._record_of(key) if "forge" in behaviours else None
            if record is not None:
                return Record(forged(record))
            if "lie" in behaviours:
                return self._lie(key)
        return honest

    def _lie(self, target: NodeId) -> Contacts:
        return contacts_that_fit(self._plot.nearest(target, self._k), self._k)


class HostileEnvelopes(Envelopes):
    """Envelopes of a node of the adversary, around those of an honest one."""

    def __init__(
        self, identity: LocalIdentity, network_id: str, honest: Envelopes, answers: FalseAnswers
    ) -> None:
        super().__init__(identity, network_id)
        self._honest = honest
        self._answers = answers

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
        """Return the false answer."""
        return self._honest.reply(self._answers.bent(reply, to), to)

    def challenge(self, request_id: bytes, cookie: bytes) -> bytes:
        """Return an honest challenge."""
        return self._honest.challenge(request_id, cookie)

    def bare_request(self, datagram: bytes) -> BareRequest | None:
        """Read a request without a cookie, which is never dropped."""
        return self._honest.bare_request(datagram)

    def parse(self, datagram: bytes) -> UnverifiedRequest | UnverifiedReply | Challenge:
        """Read a datagram; a request that the adversary drops counts as malformed."""
        message = self._honest.parse(datagram)
        if isinstance(message, UnverifiedRequest) and self._answers.drops(message):
            raise Malformed("the adversary drops this request")
        return message


def forged(record: bytes) -> bytes:
    """Return a record with changed content and the old signature."""
    bent = bytearray(record)
    bent[_FLIPPED_BYTE] ^= 1
    return bytes(bent)
