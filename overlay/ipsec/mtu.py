"""How large a packet may be so that all its tunnels fit one datagram of the underlay.

The inner MTU is computed for the *longest* path and used for every path: a size that
depended on the length would tell it to the exit (docs/decisions/0003).
"""

from __future__ import annotations

from typing import Final

from overlay.ipsec.suites import Suite

__all__ = ["esp_payload_that_fits", "inner_mtu"]

_IPV6_HEADER: Final = 40
_UDP_HEADER: Final = 8
_ESP_HEADER: Final = 8
_ESP_TRAILER: Final = 2
"""Pad length and next header (RFC 4303, sections 2.5 and 2.6)."""


def esp_payload_that_fits(space: int, suite: Suite) -> int:
    """Return the largest payload in bytes whose ESP packet (SPI to ICV) takes at most ``space``."""
    ciphertext = space - _ESP_HEADER - suite.iv_bytes - suite.icv_bytes
    alignment = max(suite.block_bytes, 4)
    return ciphertext - ciphertext % alignment - _ESP_TRAILER


def inner_mtu(underlay_mtu: int, *, hops: int, onion: Suite, link: Suite, ipv6: bool) -> int:
    """Return the largest inner packet of a path with ``hops`` onion layers.

    Args:
        underlay_mtu: bytes of an IP packet between two nodes, IP header included.
        hops: onion layers, each an ESP tunnel over IPv6.
        onion: suite of the onion SAs.
        link: suite of the link SA (ESP in UDP, RFC 3948).
        ipv6: whether the underlay speaks IPv6.
    """
    space = underlay_mtu - (_IPV6_HEADER if ipv6 else 20) - _UDP_HEADER
    size = esp_payload_that_fits(space, link)
    for _ in range(hops):
        size = esp_payload_that_fits(size - _IPV6_HEADER, onion)
    return size
