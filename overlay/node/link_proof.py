"""The first packet of a link: it says nothing but that its sender holds the keys.

An empty UDP datagram between the neighbours' overlay addresses, on the signalling port::

    link SA [ IPv6 own -> peer | UDP 6978 -> 6978, length 8 ]

It is an ordinary packet on purpose. A dummy packet (RFC 4303, section 2.6) would do for the
userspace engine, but the Linux kernel can neither send one nor count one as received.
"""

from __future__ import annotations

from typing import Final

from overlay.addresses import OverlayAddress
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.datagram import HEADER_BYTES, UdpDatagram, build_datagram

__all__ = ["is_link_proof", "link_proof"]

_UDP: Final = 17
_NEXT_HEADER: Final = 6


def link_proof(own: OverlayAddress, peer: OverlayAddress) -> bytes:
    """Return the IPv6 packet."""
    return build_datagram(UdpDatagram(own, peer, SIGNALLING_PORT, SIGNALLING_PORT, b""))


def is_link_proof(packet: bytes) -> bool:
    """Tell whether a packet from a neighbour is one; no signalling message is empty."""
    return len(packet) == HEADER_BYTES and packet[_NEXT_HEADER] == _UDP
