"""Firewall marks and stand-in addresses of the guard: what may go round a circuit, and why.

Two kinds of packets to a protected destination leave in the clear. Both have the same low 16
bits, so one masked rule (routing) or policy (IPsec) lets both pass::

    mark        low bits      packet
    NODE_MARK   NODE_MARK     a datagram of the node to a peer, or of its link SAs
    | LARGE_MARK              the same, if it fits no link in one piece
    ANSWER_MARK NODE_MARK     an answer to what a host outside began
    BRIDGED_MARK NODE_MARK    a frame of another host, for example of a virtual machine

A program cannot set a mark without CAP_NET_ADMIN or CAP_NET_RAW.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from overlay.addresses import IpAddress

__all__ = [
    "ANSWER_MARK",
    "ANSWER_MASK",
    "BRIDGED_MARK",
    "CLEAR_MASK",
    "FOREIGN_MARK",
    "LARGE_MARK",
    "NODE_MARK",
    "STAND_INS",
]

NODE_MARK: Final = 0x6D69
"""Firewall mark of the node's own datagrams, which must reach peers also at protected places."""

LARGE_MARK: Final = 0x10000
"""Firewall mark of packets that fit no link in one piece; one bit, which links' SAs let stand."""

ANSWER_MARK: Final = 0x20000 | NODE_MARK
"""Firewall mark of packets that a protected host sent in the clear, and of answers to them."""

BRIDGED_MARK: Final = 0x40000 | NODE_MARK
"""Firewall mark of frames that a bridge of this host passes on between other hosts."""

FOREIGN_MARK: Final = 0x80000
"""Firewall mark of packets of others to a protected host, which this host does not pass on."""

CLEAR_MASK: Final = 0xFFFF
"""Bits that all marks above share: ``mark & CLEAR_MASK == NODE_MARK`` may leave in the clear."""

ANSWER_MASK: Final = 0x2FFFF
"""Bits in which :data:`ANSWER_MARK` differs from other packets that may leave in the clear."""

STAND_INS: Final[dict[int, IpAddress]] = {
    4: ipaddress.ip_address("192.0.0.8"),
    6: ipaddress.ip_address("100:0:0:1::8"),
}
"""IP version -> the address under which UDP programs see a protected host that asks them.

Dummy addresses (RFC 7600, RFC 9780), which no host has and which never leave this one.
"""
