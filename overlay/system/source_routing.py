"""Compile an egress program of traffic control that drops source-routed packets.

A local program needs no rights to use source routing (IPv4 options LSRR and SSRR, RFC 791, section
3.1; IPv6 routing header, RFC 8200, section 4.4). The header's destination is then the first
intermediate host, and the final destination is in the option. So neither routes nor filters
recognise a protected destination.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.system.egress_program import CLASSIC_DROP, CLASSIC_PASS, IP_HEADER, assemble, begin

__all__ = ["source_routing_program"]

_LSRR, _SSRR = 131, 137
_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS = 0, 43, 60

_MOST_OPTIONS: Final = 8
"""Limit of IPv4 options that are examined, including padding; a header with more is dropped."""

_MOST_HEADERS: Final = 4
"""Limit of IPv6 extension headers: those that may precede a routing header, and one more.

See RFC 8200, section 4.1. A packet with more is dropped.
"""

_Code = list[tuple[int, int, int, int]]

# Instruction codes; A is the accumulator, X the index register, M the memory.
_BYTE, _BYTE_AT_X = 0x30, 0x50
_A_TO_M, _X_TO_M, _M_TO_A, _M_TO_X, _NUMBER_TO_X = 0x02, 0x03, 0x60, 0x61, 0x01
_A_TO_X, _X_TO_A = 0x07, 0x87
_AND, _SHIFT_LEFT, _ADD, _ADD_X = 0x54, 0x64, 0x04, 0x0C
_JUMP, _IF_EQUAL, _IF_MORE_THAN_X, _RETURN = 0x05, 0x15, 0x2D, 0x06

_LET: Final = (_RETURN, 0, 0, CLASSIC_PASS)
_REFUSE: Final = (_RETURN, 0, 0, CLASSIC_DROP)


def source_routing_program(marks: Sequence[tuple[int, int]]) -> bytes:
    """Return the program's instructions.

    Args:
        marks: (value, mask) of firewall marks whose packets always pass.
    """
    return assemble(begin(marks), {0x0800: _options(), 0x86DD: _extension_headers()})


def _options() -> _Code:
    """Return code that iterates over IPv4 options; X is the option's offset, M[0] the end."""
    code: _Code = [
        (_BYTE, 0, 0, IP_HEADER),
        (_AND, 0, 0, 0x0F),
        (_SHIFT_LEFT, 0, 0, 2),
        (_A_TO_M, 0, 0, 0),
        (_NUMBER_TO_X, 0, 0, 20),
    ]
    for _ in range(_MOST_OPTIONS):
        code += [
            (_M_TO_A, 0, 0, 0),
            (_IF_MORE_THAN_X, 1, 0, 0),
            _LET,
            (_BYTE_AT_X, 0, 0, IP_HEADER),
            (_IF_EQUAL, 0, 1, 0),  # end of options
            _LET,
            (_IF_EQUAL, 2, 0, _LSRR),
            (_IF_EQUAL, 1, 0, _SSRR),
            (_IF_EQUAL, 1, 4, 1),  # padding of one byte; else jump to the length
            _REFUSE,
            (_X_TO_A, 0, 0, 0),
            (_ADD, 0, 0, 1),
            (_JUMP, 0, 0, 2),
            (_BYTE_AT_X, 0, 0, IP_HEADER + 1),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
        ]
    return [*code, _REFUSE]


def _extension_headers() -> _Code:
    """Return code that iterates over IPv6 extension headers; A is the type of the one at X."""
    code: _Code = [(_NUMBER_TO_X, 0, 0, 40), (_BYTE, 0, 0, IP_HEADER + 6)]
    for _ in range(_MOST_HEADERS):
        code += [
            (_IF_EQUAL, 0, 1, _ROUTING),
            _REFUSE,
            (_IF_EQUAL, 2, 0, _HOP_BY_HOP),
            (_IF_EQUAL, 1, 0, _DESTINATION_OPTIONS),
            _LET,
            (_BYTE_AT_X, 0, 0, IP_HEADER),
            (_A_TO_M, 0, 0, 0),
            (_BYTE_AT_X, 0, 0, IP_HEADER + 1),
            (_SHIFT_LEFT, 0, 0, 3),
            (_ADD, 0, 0, 8),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
            (_M_TO_A, 0, 0, 0),
        ]
    return [*code, _REFUSE]
