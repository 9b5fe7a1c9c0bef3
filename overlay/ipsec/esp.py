"""Seal and open the packets of one SA: tunnel-mode ESP (RFC 4303).

::

    plaintext = IP packet | TFC padding | 1, 2, 3 ... | pad length (1) | next header (1)

    OutboundSa.seal   1 take a sequence number   2 limits   3 pad   4 protect   5 outer header
    InboundSa.open    1 length   2 window: check   3 limits   4 authenticate and decrypt
                      5 window: advance   6 trailer, TFC padding, inner header

Neither method raises an exception, whatever the bytes are. If a packet does not pass, the result
is a :class:`Drop`, which is also counted at the SA.

An SA builds its cipher (about 2.5 kB of memory in OpenSSL) and its outer header at its first
packet. :meth:`_Sa.cool` releases both, so that an idle SA needs little memory; the next packet
then takes about 3 microseconds more. :mod:`overlay.ipsec.userspace.cipher_cache` decides when.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.ipsec.headers import (
    IPV4,
    IPV6,
    MAX_IP_BYTES,
    NO_NEXT_HEADER,
    OuterHeader,
    new_outer_header,
    packet_length,
)
from overlay.ipsec.interface import (
    Drop,
    Lifetime,
    SaCounters,
    SaIdentity,
    SecurityAssociation,
    Template,
)
from overlay.ipsec.mtu import esp_payload_that_fits
from overlay.ipsec.replay import MAX_ESN, MAX_SEQUENCE, MAX_START, ReplayWindow, draw_start
from overlay.ipsec.suites import SUITES
from overlay.ipsec.transforms import Transform, new_iv_mask, new_transform

__all__ = [
    "NEAR_AHEAD",
    "NEAR_BEHIND",
    "InboundSa",
    "OutboundSa",
    "Report",
    "TemplateKey",
    "Warmed",
    "template_key",
]

Report = Callable[[SaIdentity], None]
"""Called once per SA when it has passed a soft limit and should be rekeyed."""

Warmed = Callable[["_Sa"], None]
"""Called each time that an SA has built its cipher."""

TemplateKey = tuple[int, bytes, bytes]
"""``(reqid, source, destination)`` of a :class:`Template`; a tuple is fast to compare."""

_MAX_PADDED_BYTES: Final = MAX_IP_BYTES - 256
"""Payloads up to this size fit into one IP packet together with the ESP fields of any suite."""

_PADDING: Final = tuple(bytes(range(1, size + 1)) for size in range(256))
_TRAILERS: Final = {
    next_header: tuple(_PADDING[size] + bytes((size, next_header)) for size in range(16))
    for next_header in (IPV4, IPV6, NO_NEXT_HEADER)
}
_unpack_sequence: Final = struct.Struct(">I").unpack_from


def template_key(template: Template) -> TemplateKey:
    """Return the form of a template that the engine compares for each packet."""
    return (template.reqid, template.source, template.destination)


@dataclass(frozen=True, slots=True)
class _Limits:
    """Packets and payload bytes after which an SA should be rekeyed (soft) or ends (hard)."""

    soft_packets: int
    hard_packets: int
    soft_bytes: int
    hard_bytes: int


@functools.lru_cache(maxsize=64)
def _limits(suite: int, lifetime: Lifetime, *, esn: bool) -> _Limits:
    """Return the configured limits, lowered to what the suite and sequence numbers allow.

    The result is cached because nearly all SAs of a host have the same limits.
    """
    packets = _last_sequence(esn=esn) - MAX_START
    hard_packets = _smaller(lifetime.hard_packets, packets)
    hard_bytes = _smaller(lifetime.hard_bytes, SUITES[suite].max_payload_bytes)
    return _Limits(
        soft_packets=_smaller(lifetime.soft_packets, hard_packets - hard_packets // 8),
        hard_packets=hard_packets,
        soft_bytes=_smaller(lifetime.soft_bytes, hard_bytes - hard_bytes // 8),
        hard_bytes=hard_bytes,
    )


def _last_sequence(*, esn: bool) -> int:
    return MAX_ESN if esn else MAX_SEQUENCE


def _smaller(configured: int | None, bound: int) -> int:
    return bound if configured is None else min(configured, bound)


NEAR_BEHIND: Final = 2**13
NEAR_AHEAD: Final = 2**14
"""Plausible distance from the highest sequence number on a link under attack: the largest replay
window, and a loss of 0.4 s at 40,000 packets per second (more than this backend carries)."""

_MANY_FORGERIES: Final = 64
"""Forged packets that indicate an attack. The UDP checksum passes only one in 65,536 damaged
packets, so a link without an attack has almost none."""


class _Sa:
    """Counters and limits that both directions have.

    ``_watch_*`` are the next limits to be reached, first the soft ones and then the hard ones. So
    each packet costs one comparison per limit; :meth:`_at_limit` does everything else.
    """

    __slots__ = (
        "_drops",
        "_report",
        "_reported",
        "_rng",
        "_started",
        "_transform",
        "_warmed",
        "_watch_bytes",
        "_watch_packets",
        "_watch_time",
        "last_used",
        "packets",
        "payload_bytes",
        "value",
    )

    def __init__(
        self,
        value: SecurityAssociation,
        rng: Random,
        report: Report,
        warmed: Warmed | None = None,
    ) -> None:
        limits = _limits(value.suite, value.lifetime, esn=value.esn)
        self.value = value
        self.packets = 0
        self.payload_bytes = 0
        self.last_used = -math.inf
        self._rng = rng
        self._report = report
        self._warmed = warmed
        self._reported = False
        self._started = math.inf
        self._transform: Transform | None = None
        self._drops: dict[Drop, int] | None = None
        self._watch_packets = limits.soft_packets
        self._watch_bytes = limits.soft_bytes
        self._watch_time = math.inf

    @property
    def template_key(self) -> TemplateKey:
        """The key by which policies name this SA."""
        value = self.value
        return (value.reqid, value.source, value.destination)

    @property
    def is_warm(self) -> bool:
        """Whether the SA holds a cipher."""
        return self._transform is not None

    def cool(self) -> None:
        """Release the cipher; the next packet builds it again."""
        self._transform = None

    def start(self, now: float) -> None:
        """Begin the lifetime in seconds at ``now`` (Unix seconds).

        If the SA has no soft lifetime, 7/8 of the hard one is used.
        """
        lifetime = self.value.lifetime
        hard_s = math.inf if lifetime.hard_s is None else lifetime.hard_s
        soft_s = hard_s * 0.875 if lifetime.soft_s is None else min(lifetime.soft_s, hard_s)
        self._started = now
        self._watch_time = now + soft_s

    def count_drop(self, drop: Drop) -> Drop:
        """Count a packet that is dropped at this SA, and return the same reason."""
        if self._drops is None:
            self._drops = {}
        self._drops[drop] = self._drops.get(drop, 0) + 1
        return drop

    def _counters(self, sequence: int) -> SaCounters:
        return SaCounters(
            packets=self.packets,
            payload_bytes=self.payload_bytes,
            sequence=sequence,
            last_used=self.last_used,
            drops=tuple((self._drops or {}).items()),
        )

    def _warm(self, iv_mask: int = 0) -> Transform:
        """Build the cipher if the SA has none (step 4 of :meth:`seal` and :meth:`open`)."""
        value = self.value
        self._transform = new_transform(
            SUITES[value.suite],
            value.keymat.reveal(),
            value.spi,
            self._rng,
            esn=value.esn,
            iv_mask=iv_mask,
        )
        if self._warmed is not None:
            self._warmed(self)
        return self._transform

    def _at_limit(self, packets: int, payload_bytes: int, now: float) -> bool:
        """Report a passed soft limit once, and tell whether a hard limit is passed."""
        self._report_once()
        value, hard_s = self.value, self.value.lifetime.hard_s
        limits = _limits(value.suite, value.lifetime, esn=value.esn)
        # The soft limit is reported, so from now on compare packets with the hard ones.
        self._watch_packets = limits.hard_packets
        self._watch_bytes = limits.hard_bytes
        self._watch_time = math.inf if hard_s is None else self._started + hard_s
        return (
            packets > self._watch_packets
            or payload_bytes > self._watch_bytes
            or now >= self._watch_time
        )

    def _report_once(self) -> None:
        if not self._reported:
            self._reported = True
            self._report(self.value.identity)


class OutboundSa(_Sa):
    """An SA with which this host seals packets.

    ``endpoint`` is the destination of the datagrams of a link SA, None for an onion SA.
    ``largest`` is the size in bytes of the largest packet that fits one datagram; see
    :meth:`limit`.

    ``start`` is the sequence number before that of the first packet. It is random, so that the
    numbers of two SAs that carry the same packets cannot be linked.
    """

    __slots__ = (
        "_alignment_mask",
        "_iv_mask",
        "_outer",
        "_pad_to",
        "_start",
        "endpoint",
        "largest",
        "outer_next_header",
    )

    def __init__(
        self,
        value: SecurityAssociation,
        rng: Random,
        report: Report,
        warmed: Warmed | None = None,
        *,
        start: int | None = None,
    ) -> None:
        super().__init__(value, rng, report, warmed)
        encapsulation = value.encapsulation
        self.endpoint = None if encapsulation is None else encapsulation.destination
        self._start = draw_start(rng) if start is None else start
        # Sequence numbers must not wrap: report the SA when 1/8 of them is left.
        room = _last_sequence(esn=value.esn) - self._start
        self._watch_packets = min(self._watch_packets, room - room // 8)
        self.outer_next_header = IPV6 if len(value.destination) == 16 else IPV4
        self._pad_to = value.tfc_pad_to
        self.largest = MAX_IP_BYTES
        self._alignment_mask = SUITES[value.suite].alignment - 1
        self._iv_mask = new_iv_mask(SUITES[value.suite], rng)
        self._outer: OuterHeader | None = None

    def cool(self) -> None:
        """Release the cipher and the outer header; the next packet builds them again."""
        super().cool()
        self._outer = None

    def seal(self, payload: bytes, next_header: int, now: float) -> bytes | Drop:
        """Encapsulate one packet.

        Args:
            payload: an IP packet; for a dummy packet any bytes.
            next_header: 4 (IPv4), 41 (IPv6) or 59 (dummy packet, RFC 4303, section 2.6).
            now: Unix seconds.

        Returns:
            For a link SA, the ESP packet from SPI to ICV (the socket adds UDP, RFC 3948). For an
            onion SA, the whole outer IP packet. If nothing was sealed, the reason. A sequence
            number is never used twice and does not wrap.
        """
        packets = self.packets + 1
        length = len(payload)
        if length < self._pad_to:
            length = self._pad_to
            payload = payload.ljust(length, b"\0")
        total = self.payload_bytes + length
        if (
            packets > self._watch_packets
            or total > self._watch_bytes
            or now >= self._watch_time
            or length > _MAX_PADDED_BYTES
        ):
            refusal = self._refuse(packets, total, length, now)
            if refusal is not None:
                return self.count_drop(refusal)
        self.packets = packets
        self.payload_bytes = total
        self.last_used = now
        trailer = _TRAILERS[next_header][-(length + 2) & self._alignment_mask]
        esp = (self._transform or self._warm_up()).seal(self._start + packets, payload + trailer)
        return esp if self._outer is None else self._outer.wrap(esp)

    def limit(self, datagram_bytes: int) -> None:
        """Limit the ESP packets of this SA to ``datagram_bytes``, from SPI to ICV.

        The caller must cut packets larger than :attr:`largest` before it seals them. TFC padding
        does not exceed this size.
        """
        self.largest = esp_payload_that_fits(datagram_bytes, SUITES[self.value.suite])
        self._pad_to = min(self.value.tfc_pad_to, self.largest)

    def seal_dummy(self, now: float) -> bytes | Drop:
        """Seal a dummy packet, padded to the size that the SA's TFC padding prescribes."""
        return self.seal(b"", NO_NEXT_HEADER, now)

    def counters(self) -> SaCounters:
        """Return the counters of the packets sealed so far."""
        return self._counters(self._start + self.packets)

    def _warm_up(self) -> Transform:
        value = self.value
        if value.encapsulation is None:
            self._outer = new_outer_header(value.source, value.destination, self._rng)
        return self._warm(self._iv_mask)

    def _refuse(self, packets: int, total: int, length: int, now: float) -> Drop | None:
        if length > _MAX_PADDED_BYTES:
            return Drop.OUT_ERROR
        at_limit = self._at_limit(packets, total, now)
        # _at_limit() has set the hard limit of packets; the sequence numbers may end earlier.
        room = _last_sequence(esn=self.value.esn) - max(self._start, MAX_START)
        self._watch_packets = min(self._watch_packets, room)
        if packets > room:
            return Drop.OUT_STATE_SEQ_ERROR
        return Drop.OUT_STATE_EXPIRED if at_limit else None


class InboundSa(_Sa):
    """An SA with which this host opens packets.

    ``peer`` is the endpoint from which the last authentic packet came. ``home`` is the configured
    endpoint of the peer. Both are None for an onion SA.
    """

    __slots__ = ("_forgeries", "_smallest", "_window", "home", "peer")

    def __init__(
        self,
        value: SecurityAssociation,
        rng: Random,
        report: Report,
        warmed: Warmed | None = None,
    ) -> None:
        super().__init__(value, rng, report, warmed)
        self.home = None if value.encapsulation is None else value.encapsulation.source
        self.peer = self.home
        self._window = ReplayWindow(value.replay_window, esn=value.esn)
        self._smallest = SUITES[value.suite].smallest_packet
        self._forgeries = 0

    def open(self, packet: bytes, offset: int, now: float) -> bytes | Drop:
        """Check, authenticate and decrypt the ESP packet that begins at ``offset``.

        The window advances only after authentication (RFC 4303, 3.4.3 and 3.4.4), because
        otherwise a forged sequence number could move it.

        Args:
            packet: SPI (4) | sequence number (4) | IV | ciphertext | ICV, and nothing after it.
            offset: index of the SPI in bytes; an outer IP header may precede it.
            now: Unix seconds.

        Returns:
            The inner IP packet, with a valid header and cut to the length in that header; or
            the reason why there is none.
        """
        if len(packet) - offset < self._smallest:
            return self.count_drop(Drop.IN_HDR_ERROR)
        sequence = self._window.check(_unpack_sequence(packet, offset + 4)[0])
        if not sequence:
            return self.count_drop(Drop.IN_STATE_SEQ_ERROR)
        if (
            self.packets >= self._watch_packets
            or self.payload_bytes >= self._watch_bytes
            or now >= self._watch_time
        ) and self._at_limit(self.packets + 1, self.payload_bytes + 1, now):
            return self.count_drop(Drop.IN_STATE_EXPIRED)
        plaintext = (self._transform or self._warm()).open(packet, offset, sequence)
        if plaintext is None:
            return self._forged()
        self._window.advance(sequence)
        self.packets += 1
        self.last_used = now
        inner = _inner_packet(plaintext)
        if not isinstance(inner, bytes):
            return self.count_drop(inner)
        self.payload_bytes += len(inner)
        return inner

    @property
    def highest(self) -> int:
        """The highest authentic sequence number so far; 0 before the first packet."""
        return self._window.highest

    def is_near(self, packet: bytes) -> bool:
        """Tell whether the sequence number of the ESP packet is near the highest authentic one.

        A number that is further ahead is valid (RFC 4303, 3.4.3), but on a link under attack the
        packet is probably forged. Before the first authentic packet every number is near.
        """
        ahead = _unpack_sequence(packet, 4)[0] - self._window.highest + NEAR_BEHIND
        return self._window.highest == 0 or ahead & MAX_SEQUENCE < NEAR_BEHIND + NEAR_AHEAD

    @property
    def is_attacked(self) -> bool:
        """Whether more packets failed authentication than transmission errors explain."""
        return self._forgeries >= _MANY_FORGERIES

    def counters(self) -> SaCounters:
        """Return the counters of the packets opened so far."""
        return self._counters(self._window.highest)

    def _forged(self) -> Drop:
        """Count a packet that failed authentication.

        At half of the suite's limit the SA is reported for rekeying. At the limit the SA ends, so
        that an attacker cannot make enough attempts to forge a packet.
        """
        self._forgeries += 1
        limit = SUITES[self.value.suite].max_forgeries
        if self._forgeries >= limit // 2:
            self._report_once()
        if self._forgeries >= limit:
            self._watch_packets = -1  # the next packet calls _at_limit(), which drops it
        return self.count_drop(Drop.IN_STATE_PROTO_ERROR)

    def _at_limit(self, packets: int, payload_bytes: int, now: float) -> bool:
        exhausted = self._forgeries >= SUITES[self.value.suite].max_forgeries
        return exhausted or super()._at_limit(packets, payload_bytes, now)


def _inner_packet(plaintext: bytes) -> bytes | Drop:
    """Return the inner packet without ESP padding and TFC padding, or why it is invalid.

    The bytes of the ESP padding must be 1, 2, 3 ... (RFC 4303, section 2.4).
    """
    pad_bytes = plaintext[-2]
    end = len(plaintext) - 2 - pad_bytes
    if end < 0 or plaintext[end:-2] != _PADDING[pad_bytes]:
        return Drop.IN_STATE_PROTO_ERROR
    next_header = plaintext[-1]
    if next_header == IPV6:
        # The same as packet_length(), inlined because every packet in transit passes here.
        if end >= 40 and plaintext[0] >> 4 == 6:
            length = 40 + (plaintext[4] << 8) + plaintext[5]
            if length <= end:
                return plaintext[:length]
        return Drop.IN_HDR_ERROR
    if next_header == IPV4:
        length = packet_length(plaintext, end) if plaintext[0] >> 4 == 4 else 0
        return plaintext[:length] if length else Drop.IN_HDR_ERROR
    return Drop.DUMMY if next_header == NO_NEXT_HEADER else Drop.IN_STATE_PROTO_ERROR
