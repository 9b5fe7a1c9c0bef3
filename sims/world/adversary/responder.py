"""False answers: the product's responder with the behaviours of the adversary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import BareRequest, UnverifiedRequest
from overlay.dht.messages import (
    Contact,
    Contacts,
    FindNode,
    FindRecord,
    Record,
    Reply,
    Request,
    contacts_that_fit,
)
from overlay.dht.messages import Store as StoreRequest
from overlay.dht.responder import RequestResponder
from sims.world.adversary.knowledge import AdversaryKnowledge
from sims.world.participants.core import SimulatedDht

__all__ = ["HostileDht"]

_FLIPPED_BYTE: Final = -70
"""Index of a byte in the body, before the signature."""

RecordOf = Callable[[NodeId], bytes | None]


class HostileResponder(RequestResponder):
    """Answer PING, STORE and LEAVE correctly, to stay in tables, and other requests falsely.

    ``record_of`` returns the true record of a node, which ``forge`` changes.
    """

    def __init__(
        self,
        plot: AdversaryKnowledge,
        record_of: RecordOf,
        *args: Any,  # noqa: ANN401 - the parent's
        **parts: Any,  # noqa: ANN401 - likewise
    ) -> None:
        super().__init__(*args, **parts)
        self.plot = plot
        self.record_of = record_of

    def answer(
        self, request: UnverifiedRequest | BareRequest, source: Endpoint, now: float
    ) -> bytes | None:
        may_drop = isinstance(request, UnverifiedRequest) and self._may_drop(request)
        if may_drop and self.plot.rng.random() < self.plot.drop_probability:
            return None
        return super().answer(request, source, now)

    def _may_drop(self, request: UnverifiedRequest) -> bool:
        asked = isinstance(request.request, FindNode | FindRecord)
        return asked and "drop" in self.plot.behaviours and bool(request.cookie)

    def _reply(self, request: Request, contact: Contact, group: bytes, now: float) -> Reply:
        honest = super()._reply(request, contact, group, now)
        match request:
            case StoreRequest(record):
                self.plot.remember(contact.node_id, record)
            case FindRecord(key):
                return self._bent_record(key, honest)
            case FindNode(target) if "lie" in self.plot.behaviours:
                return self._lie(target)
            case _:
                pass
        return honest

    def _bent_record(self, key: NodeId, honest: Reply) -> Reply:
        behaviours = self.plot.behaviours
        if key != self._own_id:
            if "replay" in behaviours and key in self.plot.archive:
                return Record(self.plot.archive[key])
            record = self.record_of(key) if "forge" in behaviours else None
            if record is not None:
                return Record(forged(record))
            if "lie" in behaviours:
                return self._lie(key)
        return honest

    def _lie(self, target: NodeId) -> Contacts:
        k = self._settings.k
        return contacts_that_fit(self.plot.nearest(target, k), k)


class HostileDht(SimulatedDht):
    """A DHT core with the answers of the adversary."""

    def __init__(
        self,
        plot: AdversaryKnowledge,
        record_of: RecordOf,
        *args: Any,  # noqa: ANN401 - the parent's
        **parts: Any,  # noqa: ANN401 - likewise
    ) -> None:
        self.make_responder = partial(HostileResponder, plot, record_of)
        super().__init__(*args, **parts)


def forged(record: bytes) -> bytes:
    """Return a record with changed content and the old signature."""
    bent = bytearray(record)
    bent[_FLIPPED_BYTE] ^= 1
    return bytes(bent)
