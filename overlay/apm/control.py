"""Encode and parse circuit control messages, which source and hops exchange in onion SAs.

Every message has 64 bytes, so that all ESP packets with such messages have the same size. The
last two may be padded to up to 1,252 bytes (docs/decisions/0054)::

    version (1) | kind (1) | body | zeros

=====  ===============  =======================================================
kind   name             body
=====  ===============  =======================================================
1      CONFIRM          IP versions (1) | inner IPv4 (4) and IPv6 address (16) | ticket (16)
2      REFUSE           reason (1)
3      PING             echo (8)
4      PONG             echo (8), as in the PING
5      TEARDOWN         reason (1)
6      REKEY OFFER      generation (4) | forward, backward SPI (4 each) | key share (32)
7      REKEY ANSWER     generation (4) | key share (32) | tag (16)
8      REKEY SWITCH     generation (4) | tag (16)
9      REKEY SWITCHED   generation (4) | tag (16)
10     MOVE             ticket (16)
11     SIZE PROBE       echo (8) | is proved (1), padded to the size in question
12     SIZE PROBED      echo (8), as in the SIZE PROBE, padded to the same size
=====  ===============  =======================================================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from overlay.addresses import InnerAddress
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.layer import IpVersions
from overlay.errors import Malformed
from overlay.ipsec.interface import MIN_SPI, Spi
from overlay.packet_sizes import INNER_MTU
from overlay.wire import ByteReader

__all__ = [
    "CONTROL_BYTES",
    "CONTROL_PORT",
    "CONTROL_VERSION",
    "ECHO_BYTES",
    "MAX_PROBE_BYTES",
    "PROBE_HEADER_BYTES",
    "SHARE_BYTES",
    "TAG_BYTES",
    "TICKET_BYTES",
    "CircuitPing",
    "CircuitPong",
    "Confirm",
    "ControlMessage",
    "Move",
    "Refuse",
    "RefuseReason",
    "RekeyAnswer",
    "RekeyOffer",
    "RekeySwitch",
    "RekeySwitched",
    "SizeProbe",
    "SizeProbed",
    "Teardown",
    "TeardownReason",
    "encode_control",
    "parse_control",
]

CONTROL_BYTES: Final = 64
CONTROL_PORT: Final = 6979
"""UDP port of circuit control at both ends, inside the onion SAs. The number is arbitrary."""

ECHO_BYTES: Final = 8

PROBE_HEADER_BYTES: Final = 48
"""Bytes of the IPv6 and UDP headers of a control message inside its onion SA."""

MAX_PROBE_BYTES: Final = INNER_MTU - PROBE_HEADER_BYTES
"""Largest SIZE PROBE; with its headers it is as large as the largest packet of a program."""

SHARE_BYTES: Final = 32
"""An X25519 public key (RFC 7748)."""

TAG_BYTES: Final = 16

TICKET_BYTES: Final = 16
"""Random bytes that identify lent inner addresses. Only the exit and the source know them."""

CONTROL_VERSION: Final = 2
_CONFIRM, _REFUSE, _PING, _PONG, _TEARDOWN = range(1, 6)
_REKEY_OFFER, _REKEY_ANSWER, _REKEY_SWITCH, _REKEY_SWITCHED = range(6, 10)
_MOVE: Final = 10
_SIZE_PROBE, _SIZE_PROBED = 11, 12
_PADDED: Final = (_SIZE_PROBE, _SIZE_PROBED)


class RefuseReason(enum.Enum):
    """Why a hop refused, as a class: only what the source needs to choose another path."""

    LIMIT = 1
    """A limit of the hop is reached; try another hop, or this one later."""
    UNREACHABLE = 2
    """The next hop could not be reached."""
    COLLISION = 3
    """An SPI or address is in use; draw again."""
    NOT_OFFERED = 4
    """The hop does not offer the requested role or IP version."""
    FAILED = 5
    """The hop could not set the circuit up."""


class TeardownReason(enum.Enum):
    """Why a circuit ends."""

    CLOSED = 1
    """The source does not need it any more."""
    NEXT_HOP_LOST = 2
    """The hop lost its link to the next hop."""
    EXPIRED = 3
    """The circuit's lifetime is over."""
    SHUTDOWN = 4
    """The hop stops."""
    WITHDRAWN = 5
    """The exit cannot send to the outside over this IP version any more."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """From the exit: the circuit is open, and the source is lent these inner addresses.

    If the source sends MOVE with the ticket over another circuit to the same exit, the addresses
    move to that circuit.
    """

    inner_addresses: InnerAddresses
    ticket: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """From the hop that refused."""

    reason: RefuseReason


@dataclass(frozen=True, slots=True)
class CircuitPing:
    """From the source; the hop answers with the same eight bytes."""

    echo: bytes


@dataclass(frozen=True, slots=True)
class CircuitPong:
    """The answer to a PING."""

    echo: bytes


@dataclass(frozen=True, slots=True)
class Teardown:
    """From the source to a hop, or from a hop to the source."""

    reason: TeardownReason


@dataclass(frozen=True, slots=True)
class RekeyOffer:
    """From the source: an offer of new keys for the SAs with this hop, with new SPIs.

    ``generation`` grows with every offer of a circuit to a hop. The keys of the onion have
    generation 0.
    """

    generation: int
    forward_spi: Spi
    backward_spi: Spi
    share: bytes


@dataclass(frozen=True, slots=True)
class RekeyAnswer:
    """From the hop, which already receives with the new keys.

    The tag proves that the hop has the new keys. The keys are derived from the answer too, with
    zeros in the place of the tag.
    """

    generation: int
    share: bytes
    tag: bytes = bytes(TAG_BYTES)


@dataclass(frozen=True, slots=True)
class RekeySwitch:
    """From the source: it has the new keys and uses them in both directions."""

    generation: int
    tag: bytes


@dataclass(frozen=True, slots=True)
class RekeySwitched:
    """From the hop: it sends with the new keys too."""

    generation: int
    tag: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """From the source to its exit: move the inner addresses of the ticket to this circuit.

    The circuit that had the addresses ends. The exit answers with CONFIRM, which names the
    addresses that this circuit has afterwards.
    """

    ticket: bytes


@dataclass(frozen=True, slots=True)
class SizeProbe:
    """From the source to its exit: does a packet of this size pass in both directions?

    ``size`` is that of the message in bytes, from ``CONTROL_BYTES`` to ``MAX_PROBE_BYTES``. If
    ``is_proved``, the source has an answer of this size already, so the exit may send packets as
    large as this one. If not, the exit must not.
    """

    echo: bytes
    is_proved: bool
    size: int

    @property
    def packet_bytes(self) -> int:
        """The size of the whole IPv6 packet inside the onion SA."""
        return self.size + PROBE_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class SizeProbed:
    """The answer to a SIZE PROBE, with the same size, so that it cannot amplify anything."""

    echo: bytes
    size: int


ControlMessage = (
    Confirm
    | Move
    | Refuse
    | CircuitPing
    | CircuitPong
    | Teardown
    | RekeyOffer
    | RekeyAnswer
    | RekeySwitch
    | RekeySwitched
    | SizeProbe
    | SizeProbed
)


def encode_control(message: ControlMessage) -> bytes:
    """Return the 64 bytes of a message, or as many as a SIZE PROBE or SIZE PROBED says."""
    size = CONTROL_BYTES
    match message:
        case Confirm(inner_addresses, ticket):
            kind, body = _CONFIRM, _encode_inner(inner_addresses) + ticket
        case Move(ticket):
            kind, body = _MOVE, ticket
        case Refuse(refuse_reason):
            kind, body = _REFUSE, bytes((refuse_reason.value,))
        case CircuitPing(echo):
            kind, body = _PING, echo
        case CircuitPong(echo):
            kind, body = _PONG, echo
        case Teardown(teardown_reason):
            kind, body = _TEARDOWN, bytes((teardown_reason.value,))
        case RekeyOffer(generation, forward_spi, backward_spi, share):
            kind = _REKEY_OFFER
            body = _encode_rekey(generation, forward_spi, backward_spi) + share
        case RekeyAnswer(generation, share, tag):
            kind, body = _REKEY_ANSWER, _encode_rekey(generation) + share + tag
        case RekeySwitch(generation, tag):
            kind, body = _REKEY_SWITCH, _encode_rekey(generation) + tag
        case RekeySwitched(generation, tag):
            kind, body = _REKEY_SWITCHED, _encode_rekey(generation) + tag
        case SizeProbe(echo, is_proved, size):
            kind, body = _SIZE_PROBE, echo + bytes((is_proved,))
        case SizeProbed(echo, size):
            kind, body = _SIZE_PROBED, echo
    return (bytes((CONTROL_VERSION, kind)) + body).ljust(size, b"\0")


def _encode_rekey(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def _encode_inner(inner: InnerAddresses) -> bytes:
    return (
        bytes((inner.families.value,))
        + (inner.ipv4 or b"").ljust(4, b"\0")
        + (inner.ipv6 or b"").ljust(16, b"\0")
    )


def parse_control(data: bytes) -> ControlMessage:
    """Parse a circuit control message.

    Raises:
        Malformed: the bytes are not the one valid encoding of a message.
    """
    if not CONTROL_BYTES <= len(data) <= MAX_PROBE_BYTES:
        raise Malformed("a circuit control message is too short or too long")
    reader = ByteReader(data)
    if reader.u8() != CONTROL_VERSION:
        raise Malformed("circuit control of an unknown version")
    kind = reader.u8()
    if len(data) != CONTROL_BYTES and kind not in _PADDED:
        raise Malformed("a circuit control message of this kind has one size")
    message = _parse_body(kind, reader, len(data))
    if any(reader.take(reader.remaining)):
        raise Malformed("a circuit control message is padded with zeros")
    return message


def _parse_body(kind: int, reader: ByteReader, size: int) -> ControlMessage:
    try:
        if kind == _CONFIRM:
            return Confirm(_parse_inner(reader), reader.take(TICKET_BYTES))
        if kind == _MOVE:
            return Move(reader.take(TICKET_BYTES))
        if kind == _REFUSE:
            return Refuse(RefuseReason(reader.u8()))
        if kind == _PING:
            return CircuitPing(reader.take(ECHO_BYTES))
        if kind == _PONG:
            return CircuitPong(reader.take(ECHO_BYTES))
        if kind == _TEARDOWN:
            return Teardown(TeardownReason(reader.u8()))
        if kind == _SIZE_PROBE:
            return SizeProbe(reader.take(ECHO_BYTES), _parse_flag(reader), size)
        if kind == _SIZE_PROBED:
            return SizeProbed(reader.take(ECHO_BYTES), size)
        if _REKEY_OFFER <= kind <= _REKEY_SWITCHED:
            return _parse_rekey(kind, reader)
    except ValueError as error:
        raise Malformed("circuit control with an unknown value") from error
    raise Malformed("circuit control of an unknown kind")


def _parse_flag(reader: ByteReader) -> bool:
    flag = reader.u8()
    if flag > 1:
        raise Malformed("a flag is 0 or 1")
    return bool(flag)


def _parse_rekey(kind: int, reader: ByteReader) -> ControlMessage:
    generation = reader.u32()
    if not generation:
        raise Malformed("generation 0 is that of the onion's keys")
    if kind == _REKEY_OFFER:
        forward_spi, backward_spi = _parse_spi(reader), _parse_spi(reader)
        return RekeyOffer(generation, forward_spi, backward_spi, reader.take(SHARE_BYTES))
    if kind == _REKEY_ANSWER:
        share = reader.take(SHARE_BYTES)
        return RekeyAnswer(generation, share, reader.take(TAG_BYTES))
    tag = reader.take(TAG_BYTES)
    return RekeySwitch(generation, tag) if kind == _REKEY_SWITCH else RekeySwitched(generation, tag)


def _parse_spi(reader: ByteReader) -> Spi:
    number = reader.u32()
    if number < MIN_SPI:
        raise Malformed("an SPI below 256 is reserved")
    return Spi(number)


def _parse_inner(reader: ByteReader) -> InnerAddresses:
    families = reader.u8()
    if not 1 <= families <= 3:
        raise Malformed("a confirmation brings an IPv4 address, an IPv6 address or both")
    given = IpVersions(families)
    ipv4, ipv6 = reader.take(4), reader.take(16)
    if (IpVersions.IPV4 not in given and any(ipv4)) or (IpVersions.IPV6 not in given and any(ipv6)):
        raise Malformed("a confirmation brings an address of a family that it does not name")
    return InnerAddresses(
        ipv4=InnerAddress(ipv4) if IpVersions.IPV4 in given else None,
        ipv6=InnerAddress(ipv6) if IpVersions.IPV6 in given else None,
    )
