"""Compile egress programs of traffic control that drop packets which leave through a device.

A program judges a packet last, after routing, packet filters and IPsec, when the device is known.
It is classic BPF for two reasons. The kernel accepts classic BPF from every process with
CAP_NET_ADMIN, and it returns the same instructions when the program is read back. Extended BPF
requires CAP_BPF, and a loaded program cannot be read back::

    mark is one of ours? ─yes─> pass
    came in by another port of a bridge? ─yes─> pass
    IPv6, and a neighbour solicitation or advertisement? ──> pass
    IPv4, IPv6? ──> rules in order: source or destination in the prefix? ─yes─> pass, or drop
    ARP? ──> the same for the sender's address and for the requested address
    no rule, or another protocol ──> pass

Instructions: Linux ``filter.h`` and Documentation/networking/filter.rst.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpNetwork

__all__ = [
    "CLASSIC_DROP",
    "CLASSIC_PASS",
    "IP_HEADER",
    "MAX_INSTRUCTIONS",
    "EgressRule",
    "Field",
    "assemble",
    "begin",
    "compile_egress",
    "may_accept",
]

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS, the limit of the kernel."""

_INSTRUCTION: Final = struct.Struct("=HBBI")

# Instruction codes.
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_AND: Final = 0x54
_JUMP: Final = 0x05
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06

# Load offsets of metadata outside the packet, and of the IP header.
_PROTOCOL: Final = 0xFFFFF000
_PACKET_TYPE: Final = 0xFFFFF000 + 4
_MARK: Final = 0xFFFFF000 + 20
IP_HEADER: Final = 0xFFF00000
"""Offset of the network header; in an ARP packet, this is the ARP header."""

CLASSIC_PASS: Final = 0xFFFFFFFF
"""TC_ACT_UNSPEC: the next program of the device decides."""
CLASSIC_DROP: Final = 2
"""TC_ACT_SHOT."""

_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_VERSIONS: Final = {_IPV4: 4, _IPV6: 6, _ARP: 4}
"""EtherType -> the IP version of its addresses."""

_WHOLE_WORD: Final = 0xFFFFFFFF

_Code = list[tuple[int, int, int, int]]


class Field(enum.Enum):
    """The address of a packet that a rule compares."""

    SOURCE = "source, or sender of an ARP packet"
    DESTINATION = "destination"
    ARP_TARGET = "address that an ARP request asks for"


_OFFSETS: Final = {
    Field.SOURCE: {_IPV4: 12, _IPV6: 8, _ARP: 14},
    Field.DESTINATION: {_IPV4: 16, _IPV6: 24},
    Field.ARP_TARGET: {_ARP: 24},
}
"""Offset of each field in bytes, by EtherType (RFC 791, RFC 8200, RFC 826 over Ethernet)."""


_NEIGHBOURS: Final[_Code] = [
    (_LOAD_BYTE, 0, 0, IP_HEADER + 6),  # next header
    (_JUMP_IF_EQUAL, 0, 4, 58),  # ICMPv6
    (_LOAD_BYTE, 0, 0, IP_HEADER + 40),
    (_JUMP_IF_EQUAL, 1, 0, 135),
    (_JUMP_IF_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, CLASSIC_PASS),
]
"""Pass neighbour discovery: a destination may be a neighbour, and routers drop it (RFC 4861)."""


_BRIDGED: Final[_Code] = [
    (_LOAD_WORD, 0, 0, _PACKET_TYPE),
    (_JUMP_IF_EQUAL, 2, 0, 1),  # PACKET_BROADCAST
    (_JUMP_IF_EQUAL, 1, 0, 2),  # PACKET_MULTICAST
    (_JUMP_IF_EQUAL, 0, 1, 3),  # PACKET_OTHERHOST
    (_RETURN, 0, 0, CLASSIC_PASS),
]
"""Pass a frame that a bridge forwards for another host, for example a virtual machine.

The kernel sets the packet type when a frame arrives (``if_packet.h``). Frames of this host, and
packets that it forwards, have PACKET_HOST.
"""


@dataclass(frozen=True, slots=True)
class EgressRule:
    """Drop or pass packets by one address; the first rule that matches a packet decides."""

    prefix: IpNetwork
    drop: bool = True
    field: Field = Field.DESTINATION


def compile_egress(rules: Iterable[EgressRule], marks: Sequence[tuple[int, int]]) -> bytes:
    """Return a program's instructions.

    Args:
        rules: in the order of evaluation.
        marks: (value, mask) of firewall marks whose packets always pass.

    Raises:
        ValueError: the program would be longer than :data:`MAX_INSTRUCTIONS`.
    """
    given = list(rules)
    return assemble(begin(marks), {kind: _judgements(given, kind) for kind in _VERSIONS})


def may_accept(program: bytes) -> bool:
    """Tell whether a program may return another result than ours, or is not classic BPF."""
    ours = {(_RETURN, CLASSIC_PASS), (_RETURN, CLASSIC_DROP)}
    if not program or len(program) % _INSTRUCTION.size:
        return True
    code = _INSTRUCTION.iter_unpack(program)
    return any(kind & 7 == _RETURN and (kind, value) not in ours for kind, _, _, value in code)


def begin(marks: Sequence[tuple[int, int]]) -> _Code:
    """Return the instructions that pass marked packets and frames of other hosts."""
    code: _Code = []
    for value, mask in marks:
        code += [(_LOAD_WORD, 0, 0, _MARK), *_masked(mask)]
        code += [(_JUMP_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, CLASSIC_PASS)]
    return [*code, *_BRIDGED]


def assemble(start: _Code, blocks: Mapping[int, _Code]) -> bytes:
    """Return a program: ``start``, then the block of the packet's EtherType, which returns.

    Raises:
        ValueError: the program would be longer than :data:`MAX_INSTRUCTIONS`.
    """
    code: _Code = [*start, (_LOAD_WORD, 0, 0, _PROTOCOL)]
    for ether_type, block in blocks.items():
        # A conditional jump has an 8-bit offset and so reaches 255 instructions. A block may be
        # longer, so an unconditional jump skips it.
        code += [(_JUMP_IF_EQUAL, 1, 0, ether_type), (_JUMP, 0, 0, len(block)), *block]
    code.append((_RETURN, 0, 0, CLASSIC_PASS))
    if len(code) > MAX_INSTRUCTIONS:
        raise ValueError(f"an egress program must not exceed {MAX_INSTRUCTIONS} instructions.")
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


def _judgements(rules: Iterable[EgressRule], ether_type: int) -> _Code:
    """Return the code of the rules for one EtherType; it always ends in a return.

    A packet of another EtherType skips it, so the loaded protocol is still valid for the next one.
    """
    code: _Code = list(_NEIGHBOURS) if ether_type == _IPV6 else []
    for rule in rules:
        at = _OFFSETS[rule.field].get(ether_type)
        if at is not None and rule.prefix.version == _VERSIONS[ether_type]:
            code += _judgement(rule, at)
    return [*code, (_RETURN, 0, 0, CLASSIC_PASS)]


def _judgement(rule: EgressRule, at: int) -> _Code:
    """Return code that compares word by word; a different word skips the rest and the verdict."""
    words = f">{rule.prefix.max_prefixlen // 32}I"
    wanted = struct.unpack(words, rule.prefix.network_address.packed)
    masks = struct.unpack(words, rule.prefix.netmask.packed)
    code: _Code = [(_RETURN, 0, 0, CLASSIC_DROP if rule.drop else CLASSIC_PASS)]
    for index, (value, mask) in reversed(list(enumerate(zip(wanted, masks, strict=True)))):
        if mask:
            load = (_LOAD_WORD, 0, 0, IP_HEADER + at + 4 * index)
            code = [load, *_masked(mask), (_JUMP_IF_EQUAL, 0, len(code), value), *code]
    if rule.field is Field.ARP_TARGET:
        # Only requests (operation 1). The target of an ARP reply is the host that asked. If
        # replies were dropped, a neighbour would notice the kill switch.
        request = [(_LOAD_BYTE, 0, 0, IP_HEADER + 7), (_JUMP_IF_EQUAL, 0, len(code), 1)]
        code = [*request, *code]
    return code


def _masked(mask: int) -> _Code:
    return [] if mask == _WHOLE_WORD else [(_AND, 0, 0, mask)]
