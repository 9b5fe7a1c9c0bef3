"""Firewall marks of packets that may bypass circuits, and the stand-in addresses.

All packets that may leave in the clear to a protected destination have the same low 16 bits in
their mark. So one masked routing rule or IPsec policy accepts all of them::

    mark        low bits      packet
    NODE_MARK   NODE_MARK     a datagram of the node to a peer, or of its link SAs
    | LARGE_MARK              the same, if it is too large for any link without fragmentation
    ANSWER_MARK NODE_MARK     an answer to traffic that a host outside began
    BRIDGED_MARK NODE_MARK    a frame of another host, for example of a virtual machine

A program needs CAP_NET_ADMIN or CAP_NET_RAW to set a mark.
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
"""Firewall mark of the node's own datagrams, which must reach peers even in protected prefixes."""

LARGE_MARK: Final = 0x10000
"""Mark of packets that are too large for any link; one bit, which link SAs do not change."""

ANSWER_MARK: Final = 0x20000 | NODE_MARK
"""Firewall mark of packets that a protected host sent in the clear, and of answers to them."""

BRIDGED_MARK: Final = 0x40000 | NODE_MARK
"""Firewall mark of frames that a bridge of this host forwards between other hosts."""

FOREIGN_MARK: Final = 0x80000
"""Firewall mark of packets of other hosts to a protected host; this host does not forward them."""

CLEAR_MASK: Final = 0xFFFF
"""Mask of the low bits: packets with ``mark & CLEAR_MASK == NODE_MARK`` may leave in the clear."""

ANSWER_MASK: Final = 0x2FFFF
"""Mask that tells :data:`ANSWER_MARK` from the marks of other packets in the clear."""

STAND_INS: Final[dict[int, IpAddress]] = {
    4: ipaddress.ip_address("192.0.0.8"),
    6: ipaddress.ip_address("100:0:0:1::8"),
}
"""IP version -> the address that UDP programs see in place of a protected host.

These are dummy addresses (RFC 7600, RFC 9780). No host has them, and they never leave this host.
"""
