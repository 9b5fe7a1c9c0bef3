"""Answers that harm: the product's responder with its honesty taken out, one lie at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import UnverifiedRequest
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
from overlay.dht.responder import Responder
from sims.adversary.plot import Plot
from sims.participants.core import SimulatedDht

__all__ = ["corrupt"]

_FLIPPED_BYTE: Final = -70
"""Lies in the body in front of the signature."""

RecordOf = Callable[[NodeId], bytes | None]


class _HostileResponder(Responder):
    """Stays in tables (PING, STORE and LEAVE are answered as they should be) and lies elsewhere."""

    plot: Plot
    record_of: RecordOf

    def answer(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bytes | None:
        asked = isinstance(request.request, FindNode | FindRecord)
        may_drop = asked and "drop" in self.plot.behaviours and request.cookie
        if may_drop and self.plot.rng.random() < self.plot.drop_probability:
            return None
        return super().answer(request, source, now)

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


def corrupt(dht: SimulatedDht, plot: Plot, record_of: RecordOf) -> None:
    """Let a core answer for the adversary from now on."""
    responder = dht._responder
    responder.__class__ = _HostileResponder
    assert isinstance(responder, _HostileResponder)  # just made one
    responder.plot = plot
    responder.record_of = record_of


def forged(record: bytes) -> bytes:
    """Return a record with another content under the old signature."""
    bent = bytearray(record)
    bent[_FLIPPED_BYTE] ^= 1
    return bytes(bent)
