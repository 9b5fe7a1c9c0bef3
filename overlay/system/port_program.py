"""Compile the classic BPF program that sorts the datagrams of a node's UDP port in the kernel.

::

    payload ──┬─ SPI with the mark of our links ────────────────────> ESP
              ├─ control: answer whose number has our mark ─────────> EXPECTED
              ├─ control: request with a cookie, valid or not ──────> RETURNING
              ├─ control: other request of a known form ────────────> STRANGER
              └─ anything else ─────────────────────────────────────> GARBAGE

ESP of a link under attack is a STRANGER as well, unless it has the expected source and sequence
number.

The program has two uses. It chooses the queue of a datagram, where it cannot drop anything. It is
also the filter of the queues without ESP, where it drops garbage. A dropped datagram costs less
than 1 µs and does not wake the node.

The caller passes the forms of control datagrams, so that this module is independent of protocols.

Reasons: docs/decisions/0044.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.ipsec.spi_mark import SPI_MARK_SHIFT, SpiMark

__all__ = [
    "ControlForm",
    "DatagramKind",
    "FixedCookie",
    "PackedCookie",
    "PortForms",
    "Suspect",
    "filter_program",
    "steering_program",
]

# From Linux's uapi filter.h: instruction classes, sizes and modes.
_LOAD_LENGTH: Final = 0x80
_LOADS: Final = {4: 0x20, 2: 0x28, 1: 0x30}
_MULTIPLY: Final = 0x24
_SUBTRACT: Final = 0x14
_SHIFT_RIGHT: Final = 0x74
_ADD: Final = 0x04
_ADD_INDEX: Final = 0x0C
_TO_INDEX: Final = 0x07
_LOAD_CONSTANT: Final = 0x00
_LOAD_BYTE_INDEXED: Final = 0x50
_LOAD_HALF_INDEXED: Final = 0x48
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

_INSTRUCTION: Final = struct.Struct("=HBBI")
"""``struct sock_filter``: code, jump if true, jump if false, constant."""

_UDP_HEADER_BYTES: Final = 8
_MARKER_BYTES: Final = 4
"""The non-ESP marker (RFC 3948, section 2.2) is in the position of the SPI and has its size."""

_LEAST_BYTES: Final = 8
"""Size of the ESP header. Control messages are longer; a keepalive (RFC 3948, 2.3) is shorter."""

_NETWORK_HEADER: Final = 0xFFF0_0000
"""``SKF_NET_OFF``: offsets from here count from the IP header."""

_NO_OPTIONS: Final = 0x45
"""First byte of an IPv4 header without options, after which UDP begins at byte 20."""

_UDP: Final = 17
_SEQUENCE_AT: Final = 4
_SUSPECTS: Final = 64
"""Limit: a program has at most 4,096 instructions, and one suspect takes up to 17."""

# msgpack: type of an 8-bit integer (16-bit is the next one), and head of a 16-byte string.
_UINT8: Final = 0xCC
_SIXTEEN_BYTES: Final = 0xC410

_WHOLE_PACKET: Final = 0xFFFF_FFFF
_DROP: Final = 0


class DatagramKind(enum.Enum):
    """The kind of a datagram, as far as it can be determined without a key."""

    ESP = "ESP of a link of ours"
    EXPECTED = "an answer that this node expects, or a notice about a link of ours"
    RETURNING = "a request with a cookie, which may be wrong"
    STRANGER = "a request of any node"
    GARBAGE = "a datagram of no known form"


@dataclass(frozen=True, slots=True)
class FixedCookie:
    """A request has a cookie if the word (4 bytes) at this offset of the payload is not zero."""

    at: int


@dataclass(frozen=True, slots=True)
class PackedCookie:
    """A request in msgpack has a cookie if a field of 16 bytes follows three other fields.

    The first field is a string of 0 or 20 bytes at the offset ``at`` of the payload. A string of 4
    or 16 bytes and an integer of up to 16 bits follow.
    """

    at: int


@dataclass(frozen=True, slots=True)
class ControlForm:
    """How one kind of control datagram begins.

    Attributes:
        begins: the first bytes after the marker.
        size: size of the UDP payload in bytes; a minimum unless ``exact``.
        exact: whether the payload must have exactly ``size`` bytes.
        number_at: offset in the payload of a 32-bit number that this node has drawn; None for a
            request.
        mark: the mark by which this node recognises such numbers.
        cookie: position of a cookie in a request. ``size`` includes all bytes up to it.
    """

    begins: bytes
    size: int
    exact: bool
    number_at: int | None = None
    mark: SpiMark | None = None
    cookie: FixedCookie | PackedCookie | None = None


@dataclass(frozen=True, slots=True)
class PortForms:
    """The datagrams that a port accepts: ESP whose SPI has the mark, and control datagrams."""

    link_spis: SpiMark
    control: tuple[ControlForm, ...]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A link SA under attack, and the packets of it that stay in the queue for ESP.

    Attributes:
        spi: SPI of the SA.
        address: address of the peer, packed (4 or 16 bytes, as the socket's family).
        port: UDP port of the peer.
        first: lowest expected sequence number, modulo 2**32.
        count: number of expected sequence numbers from ``first``; None for all.
    """

    spi: int
    address: bytes
    port: int
    first: int
    count: int | None


_Instruction = tuple[int, int, int, int]


def steering_program(
    forms: PortForms, places: Mapping[DatagramKind, int], suspects: Sequence[Suspect] = ()
) -> bytes:
    """Return the program for a group of sockets, which returns the index of one of them.

    Its input is the payload. The payload may be an aggregate of several datagrams, so a size is
    only a lower bound. Only the first 64 suspects are used.
    """
    return _encoded(_sorting(forms, places, suspects, base=0, exactly=False))


def filter_program(forms: PortForms) -> bytes:
    """Return the filter of one socket, which drops garbage.

    Its input is the UDP header and the payload. If the socket does not use ``UDP_GRO``, the input
    is always one datagram and not an aggregate.
    """
    verdicts = dict.fromkeys(DatagramKind, _WHOLE_PACKET) | {DatagramKind.GARBAGE: _DROP}
    return _encoded(_sorting(forms, verdicts, (), base=_UDP_HEADER_BYTES, exactly=True))


def _sorting(
    forms: PortForms,
    verdicts: Mapping[DatagramKind, int],
    suspects: Sequence[Suspect],
    *,
    base: int,
    exactly: bool,
) -> list[_Instruction]:
    garbage = (_RETURN, 0, 0, verdicts[DatagramKind.GARBAGE])
    esp: list[_Instruction] = [*_mark_test(forms.link_spis, otherwise=0), garbage]
    # If the number has the mark, jump over the verdict ``garbage``.
    esp[-2] = (_JUMP_EQUAL, 1, 0, forms.link_spis.tag)
    for suspect in suspects[:_SUSPECTS]:
        esp += _suspect(suspect, verdicts)
    esp.append((_RETURN, 0, 0, verdicts[DatagramKind.ESP]))
    program: list[_Instruction] = [
        # Check the length first, because a load beyond the end would return 0 from the program.
        (_LOAD_LENGTH, 0, 0, 0),
        (_JUMP_AT_LEAST, 1, 0, base + _LEAST_BYTES),
        garbage,
        (_LOADS[_MARKER_BYTES], 0, 0, base),
        (_JUMP_EQUAL, 0, 1, 0),  # the marker of control datagrams
        (_JUMP, 0, 0, len(esp)),
        *esp,
    ]
    for form in forms.control:
        program += _form(form, verdicts, base=base, exactly=exactly)
    return [*program, garbage]


def _form(
    form: ControlForm, verdicts: Mapping[DatagramKind, int], *, base: int, exactly: bool
) -> list[_Instruction]:
    """Return the block of one form; if the form does not match, the next block follows."""
    if form.number_at is None or form.mark is None:
        verdict = _request(form.cookie, verdicts, base)
    else:
        verdict = [
            (_LOADS[4], 0, 0, base + form.number_at),
            *_mark_test(form.mark, otherwise=1),
            (_RETURN, 0, 0, verdicts[DatagramKind.EXPECTED]),
            (_RETURN, 0, 0, verdicts[DatagramKind.GARBAGE]),
        ]
    loads = _parts(form.begins, base + _MARKER_BYTES)
    after = len(verdict)
    size_test = _JUMP_EQUAL if exactly and form.exact else _JUMP_AT_LEAST
    block: list[_Instruction] = [
        (_LOAD_LENGTH, 0, 0, 0),
        (size_test, 0, after + 2 * len(loads), base + form.size),
    ]
    for left, (code, at, value) in zip(range(len(loads) - 1, -1, -1), loads, strict=True):
        block += [(code, 0, 0, at), (_JUMP_EQUAL, 0, after + 2 * left, value)]
    return block + verdict


def _request(
    cookie: FixedCookie | PackedCookie | None, verdicts: Mapping[DatagramKind, int], base: int
) -> list[_Instruction]:
    """Return the end of a block, which tests whether a request has a cookie."""
    stranger = (_RETURN, 0, 0, verdicts[DatagramKind.STRANGER])
    returning = (_RETURN, 0, 0, verdicts[DatagramKind.RETURNING])
    if cookie is None:
        return [stranger]
    start = base + cookie.at
    if isinstance(cookie, FixedCookie):
        return [(_LOADS[4], 0, 0, start), (_JUMP_EQUAL, 0, 1, 0), stranger, returning]
    return [
        (_LOADS[1], 0, 0, start + 1),  # the size of the first string
        (_JUMP_EQUAL, 1, 0, 0),
        (_JUMP_EQUAL, 0, 16, 20),  # a request with other sizes has no cookie
        (_ADD, 0, 0, 2),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_BYTE_INDEXED, 0, 0, start + 1),  # the size of the second string
        (_JUMP_EQUAL, 1, 0, 4),
        (_JUMP_EQUAL, 0, 11, 16),
        (_ADD_INDEX, 0, 0, 0),
        (_ADD, 0, 0, 2),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_BYTE_INDEXED, 0, 0, start),  # the integer: one byte, or its type
        (_JUMP_AT_LEAST, 1, 0, _UINT8),
        (_LOAD_CONSTANT, 0, 0, _UINT8 - 1),
        (_SUBTRACT, 0, 0, _UINT8 - 2),  # 1, 2 or 3 bytes
        (_ADD_INDEX, 0, 0, 0),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_HALF_INDEXED, 0, 0, start),
        (_JUMP_EQUAL, 1, 0, _SIXTEEN_BYTES),
        stranger,
        returning,
    ]


def _suspect(suspect: Suspect, verdicts: Mapping[DatagramKind, int]) -> list[_Instruction]:
    """Return the block of one SA under attack; packets of other SAs continue after it."""
    if len(suspect.address) == 4:
        wanted = [(_LOADS[1], 0, _NO_OPTIONS), *_parts(suspect.address, 12)]
        port_at = 20
    else:
        wanted = [(_LOADS[1], 6, _UDP), *_parts(suspect.address, 8)]  # 6: the next header
        port_at = 40
    wanted.append((_LOADS[2], port_at, suspect.port))
    tests: list[_Instruction] = []
    for code, at, value in wanted:
        tests += [(code, 0, 0, _NETWORK_HEADER + at), (_JUMP_EQUAL, 0, 0, value)]
    if suspect.count is not None:
        tests += [(_LOADS[4], 0, 0, _SEQUENCE_AT), (_SUBTRACT, 0, 0, suspect.first)]
        tests.append((_JUMP_AT_LEAST, 0, 0, suspect.count))
    tests.append((_RETURN, 0, 0, verdicts[DatagramKind.ESP]))
    for index, (code, _, _, value) in enumerate(tests):
        behind = len(tests) - index - 1  # distance to the verdict for unexpected packets
        if code == _JUMP_EQUAL:
            tests[index] = (code, 0, behind, value)
        elif code == _JUMP_AT_LEAST:
            tests[index] = (code, behind, 0, value)
    return [
        (_LOADS[4], 0, 0, 0),
        (_JUMP_EQUAL, 0, len(tests) + 1, suspect.spi),
        *tests,
        (_RETURN, 0, 0, verdicts[DatagramKind.STRANGER]),
    ]


def _parts(begins: bytes, at: int) -> list[tuple[int, int, int]]:
    """Split bytes into words, half-words and single bytes; return code, offset, value of each."""
    parts = []
    while begins:
        size = next(each for each in _LOADS if each <= len(begins))
        parts.append((_LOADS[size], at, int.from_bytes(begins[:size], "big")))
        begins, at = begins[size:], at + size
    return parts


def _mark_test(mark: SpiMark, *, otherwise: int) -> list[_Instruction]:
    """Test the loaded number; skip ``otherwise`` instructions if it does not have the mark."""
    return [
        (_MULTIPLY, 0, 0, mark.multiplier),
        (_SHIFT_RIGHT, 0, 0, SPI_MARK_SHIFT),
        (_JUMP_EQUAL, 0, otherwise, mark.tag),
    ]


def _encoded(program: Sequence[_Instruction]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*each) for each in program)
