"""Carry onion signalling messages to neighbours, in fragments that are acknowledged.

A message is sent as 1 to 16 fragments of at most 1,072 bytes. Each fragment is one UDP payload
over the link SA. The receiver acknowledges the fragments that it has. The sender repeats the
others after pauses that double each time::

    DATA  kind=1 (1) | message id (8) | message length (2) | index (1) | fragment
    ACK   kind=2 (1) | message id (8) | received fragments, bit i for index i (2)

The message length determines the size of each fragment, so any other size is malformed. The link
SA authenticates the neighbour. The carrier limits the memory that each neighbour can occupy. It
delivers whole messages, each at most once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from overlay.addresses import OverlayAddress
from overlay.apm.neighbour_shares import GroupsOf, NeighbourShares, no_groups
from overlay.apm.settings import ApmSettings
from overlay.apm.timers import Timers
from overlay.errors import LimitReached, Malformed
from overlay.wire import ByteReader

__all__ = [
    "DELIVERED_S",
    "MAX_DELIVERED",
    "MAX_DELIVERED_PER_PEER",
    "MAX_FRAGMENT_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_OUTGOING",
    "MAX_OUTGOING_PER_PEER",
    "MAX_PARTIAL",
    "MAX_PARTIAL_PER_PEER",
    "PARTIAL_S",
    "SIGNALLING_PORT",
    "CarrierLoad",
    "OnionCarrier",
]

SIGNALLING_PORT: Final = 6978
"""UDP port of signalling at both ends, inside the link SA. The number is arbitrary."""

MAX_FRAGMENT_BYTES: Final = 1072
"""A UDP payload of 1,200 bytes on the network, minus the largest ESP overhead of a suite (57),
the IPv6 and UDP headers (48) and the DATA header (12), rounded down."""

MAX_MESSAGE_BYTES: Final = 16 * MAX_FRAGMENT_BYTES

_DATA: Final = 1
_ACK: Final = 2
_ID_BYTES: Final = 8

_SUSPICIOUS_ATTEMPTS: Final = 2
"""Two losses in a row are rare. It is more likely that the neighbour restarted and lost its SAs."""

MAX_OUTGOING: Final = 2048
MAX_OUTGOING_PER_PEER: Final = 64
"""This keeps a few silent neighbours from using all places for outgoing messages."""

MAX_PARTIAL: Final = 128
MAX_PARTIAL_PER_PEER: Final = 8
MAX_DELIVERED: Final = 65_536
MAX_DELIVERED_PER_PEER: Final = 4096
PARTIAL_S: Final = 20.0
"""This is longer than a sender with default settings repeats a message (15.5 s)."""
DELIVERED_S: Final = 60.0
"""Time for which repeated fragments of a delivered message are recognised."""

_Key = tuple[OverlayAddress, bytes]
_TimerKey = tuple[str, _Key]


def _fragments_of(length: int) -> int:
    return -(-length // MAX_FRAGMENT_BYTES)


@dataclass(slots=True)
class _Outgoing:
    circuit: int
    message: bytes
    missing: set[int]
    attempts: int = 0


@dataclass(slots=True)
class _Partial:
    length: int
    fragments: dict[int, bytes] = field(default_factory=dict)

    @property
    def received(self) -> int:
        return sum(1 << index for index in self.fragments)


class CarrierLoad(NamedTuple):
    """Numbers of messages of one neighbour, or of all."""

    outgoing: int
    partly_received: int
    delivered: int


class OnionCarrier:
    """Send and receive the messages of all neighbours.

    At most 2,048 messages are outgoing (64 to one neighbour) and 128 partly received (8 from one
    neighbour). At most 65,536 delivered ones are remembered (4,096 from one neighbour). Received
    messages also count towards shares by prefix. Above these limits, fragments are dropped until
    the sender repeats them. A message of one fragment is never partly received, so unfinished
    messages of other neighbours cannot keep it out.
    """

    def __init__(self, settings: ApmSettings, rng: Random, groups: GroupsOf = no_groups) -> None:
        self._settings = settings
        self._rng = rng
        self._outgoing: dict[_Key, _Outgoing] = {}
        self._partial: dict[_Key, _Partial] = {}
        self._delivered: dict[_Key, int] = {}
        self._load: Counter[OverlayAddress] = Counter()
        self._shares: dict[str, NeighbourShares[_Key]] = {
            "in": NeighbourShares(MAX_PARTIAL, MAX_PARTIAL_PER_PEER, groups),
            "done": NeighbourShares(MAX_DELIVERED, MAX_DELIVERED_PER_PEER, groups),
        }
        self._timers: Timers[_TimerKey] = Timers()
        self._payloads: list[tuple[OverlayAddress, bytes]] = []
        self._failed: list[int] = []
        self._silent: list[OverlayAddress] = []

    def send(self, peer: OverlayAddress, message: bytes, circuit: int, now: float) -> None:
        """Send a message of a circuit to a neighbour to which a link is up.

        Raises:
            ValueError: the message is empty or larger than 16 fragments.
            LimitReached: too many messages are outgoing.
        """
        if not 0 < len(message) <= MAX_MESSAGE_BYTES:
            raise ValueError(f"a signalling message has 1 to {MAX_MESSAGE_BYTES} bytes")
        if len(self._outgoing) >= MAX_OUTGOING or self._load[peer] >= MAX_OUTGOING_PER_PEER:
            raise LimitReached("too many signalling messages are under way")
        key = (peer, self._rng.randbytes(_ID_BYTES))
        missing = set(range(_fragments_of(len(message))))
        self._outgoing[key] = _Outgoing(circuit, message, missing)
        self._load[peer] += 1
        self._transmit(key, now)

    def receive(self, peer: OverlayAddress, payload: bytes, now: float) -> bytes | None:
        """Process a UDP payload of a neighbour; return a message if the payload completes one.

        Raises:
            Malformed: it is neither a fragment nor an acknowledgement.
            LimitReached: the limits for received messages are reached.
        """
        reader = ByteReader(payload)
        kind = reader.u8()
        key = (peer, reader.take(_ID_BYTES))
        if kind == _ACK:
            self._acknowledged(key, reader)
            return None
        if kind != _DATA:
            raise Malformed("signalling of an unknown kind")
        return self._receive_fragment(key, reader, now)

    def link_lost(self, peer: OverlayAddress) -> None:
        """Discard all messages to and from a neighbour; the outgoing ones have failed."""
        for key in [key for key in self._outgoing if key[0] == peer]:
            self._failed.append(self._outgoing[key].circuit)
            self._forget("out", key)
        for kind, table in (("in", self._partial), ("done", self._delivered)):
            for key in [key for key in table if key[0] == peer]:
                self._forget(kind, key)

    def load(self, peer: OverlayAddress | None = None) -> CarrierLoad:
        """Return how many messages are held, of one neighbour or of all of them."""
        tables = (self._outgoing, self._partial, self._delivered)
        return CarrierLoad(*(sum(peer in (None, key[0]) for key in table) for table in tables))

    def failures(self) -> list[int]:
        """Return and clear the circuits whose message the neighbour did not acknowledge."""
        failed, self._failed = self._failed, []
        return failed

    def silent_neighbours(self) -> list[OverlayAddress]:
        """Return and clear the neighbours that did not acknowledge a message twice in a row."""
        silent, self._silent = self._silent, []
        return silent

    def payloads_to_send(self) -> list[tuple[OverlayAddress, bytes]]:
        """Return and clear the UDP payloads to send, each with its neighbour."""
        payloads, self._payloads = self._payloads, []
        return payloads

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Repeat unacknowledged fragments and discard old state."""
        while (due := self._timers.pop_due(now)) is not None:
            kind, key = due
            if kind != "out":
                self._forget(kind, key)
            elif self._outgoing[key].attempts >= self._settings.carrier_attempts:
                self._failed.append(self._outgoing[key].circuit)
                self._forget("out", key)
            else:
                if self._outgoing[key].attempts == _SUSPICIOUS_ATTEMPTS:
                    self._silent.append(key[0])
                self._transmit(key, now)

    def _transmit(self, key: _Key, now: float) -> None:
        outgoing = self._outgoing[key]
        peer, message_id = key
        head = bytes((_DATA,)) + message_id + len(outgoing.message).to_bytes(2, "big")
        for index in sorted(outgoing.missing):
            start = index * MAX_FRAGMENT_BYTES
            fragment = outgoing.message[start : start + MAX_FRAGMENT_BYTES]
            self._payloads.append((peer, head + bytes((index,)) + fragment))
        self._timers.set(("out", key), now + self._settings.carrier_retry_s * 2**outgoing.attempts)
        outgoing.attempts += 1

    def _acknowledged(self, key: _Key, reader: ByteReader) -> None:
        received = reader.u16()
        reader.end()
        outgoing = self._outgoing.get(key)
        if outgoing is None:
            return
        outgoing.missing = {index for index in outgoing.missing if not received >> index & 1}
        if not outgoing.missing:
            self._forget("out", key)

    def _receive_fragment(self, key: _Key, reader: ByteReader, now: float) -> bytes | None:
        length, index = reader.u16(), reader.u8()
        fragment = reader.take(reader.remaining)
        count = _fragments_of(length)
        expected = min(MAX_FRAGMENT_BYTES, length - index * MAX_FRAGMENT_BYTES)
        if not 0 < length <= MAX_MESSAGE_BYTES or index >= count or len(fragment) != expected:
            raise Malformed("the fragment does not fit its message")
        if key in self._delivered:
            self._acknowledge(key, self._delivered[key])
            return None
        if not self._shares["done"].admits(key[0]):
            raise LimitReached("the neighbour has sent too many signalling messages")
        if count == 1:
            return self._deliver(key, _Partial(length, {0: fragment}), now)
        partial = self._partial_of(key, length, now)
        partial.fragments.setdefault(index, fragment)
        if len(partial.fragments) < count:
            self._acknowledge(key, partial.received)
            return None
        self._forget("in", key)
        return self._deliver(key, partial, now)

    def _partial_of(self, key: _Key, length: int, now: float) -> _Partial:
        partial = self._partial.get(key)
        if partial is None:
            if not self._shares["in"].admits(key[0]):
                raise LimitReached("the neighbour has too many signalling messages under way")
            partial = self._partial[key] = _Partial(length)
            self._shares["in"].add(key, key[0])
            self._timers.set(("in", key), now + PARTIAL_S)
        if partial.length != length:
            raise Malformed("two fragments of one message disagree about its length")
        return partial

    def _deliver(self, key: _Key, partial: _Partial, now: float) -> bytes:
        received = partial.received
        self._delivered[key] = received
        self._shares["done"].add(key, key[0])
        self._timers.set(("done", key), now + DELIVERED_S)
        self._acknowledge(key, received)
        return b"".join(partial.fragments[index] for index in range(len(partial.fragments)))

    def _acknowledge(self, key: _Key, received: int) -> None:
        peer, message_id = key
        self._payloads.append((peer, bytes((_ACK,)) + message_id + received.to_bytes(2, "big")))

    def _forget(self, kind: str, key: _Key) -> None:
        tables: dict[str, dict[_Key, _Outgoing] | dict[_Key, _Partial] | dict[_Key, int]] = {
            "out": self._outgoing,
            "in": self._partial,
            "done": self._delivered,
        }
        del tables[kind][key]
        self._timers.cancel((kind, key))
        if kind != "out":
            self._shares[kind].discard(key)
            return
        self._load[key[0]] -= 1
        if not self._load[key[0]]:
            del self._load[key[0]]
