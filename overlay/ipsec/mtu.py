"""Compute the largest packet that, in all its tunnels, fits one datagram of the underlay.

The inner MTU is computed for the *longest* path and used for every path. If it depended on the
number of hops, the exit could infer that number from it (docs/decisions/0003).
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
    """Return the largest payload whose ESP packet, SPI to ICV, has at most ``space`` bytes."""
    ciphertext = space - _ESP_HEADER - suite.iv_bytes - suite.icv_bytes
    alignment = max(suite.block_bytes, 4)
    return ciphertext - ciphertext % alignment - _ESP_TRAILER


def inner_mtu(underlay_mtu: int, *, hops: int, onion: Suite, link: Suite, ipv6: bool) -> int:
    """Return the size in bytes of the largest inner packet of a path with ``hops`` hops.

    Args:
        underlay_mtu: size in bytes of an IP packet between two nodes, including its IP header.
        hops: number of onion layers; each one is an ESP tunnel over IPv6.
        onion: suite of the onion SAs.
        link: suite of the link SA (ESP in UDP, RFC 3948).
        ipv6: whether the underlay uses IPv6; otherwise it uses IPv4.
    """
    space = underlay_mtu - (_IPV6_HEADER if ipv6 else 20) - _UDP_HEADER
    size = esp_payload_that_fits(space, link)
    for _ in range(hops):
        size = esp_payload_that_fits(size - _IPV6_HEADER, onion)
    return size
