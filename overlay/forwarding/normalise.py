"""Normalise packets at the source, so that their headers do not identify its host.

====================  ==========================================================
TTL, hop limit        64
DSCP, ECN             0 (IPv4 type of service, IPv6 traffic class)
Flow label            0
IPv4 identification   0 in atomic datagrams (RFC 6864, section 4.1), else permuted
                      under the node's key; the same for IPv6 fragments
Reserved bits         0 (IPv4 flags, IPv6 Fragment header)
IPv4 options          dropped, the header is rebuilt
IPv6 options          hop-by-hop and destination options dropped
TCP SYN               :mod:`overlay.forwarding.syn`
ICMP                  echo and errors pass, other types are dropped
other protocols       dropped: their headers may contain host addresses, as in SCTP
====================  ==========================================================

The TCP, UDP and ICMP checksums cover none of the IP fields above (RFC 8200, section 8.1). So only
a changed SYN needs a new checksum. The device has completed all checksums except those of TCP
super-packets (:mod:`overlay.offload`), which are computed when they are cut.
"""

from __future__ import annotations

import struct
from typing import Final

from overlay.forwarding.checksum import internet_checksum
from overlay.forwarding.headers import (
    ICMP,
    ICMPV6,
    IPV6_FRAGMENT,
    TCP,
    UDP,
    DropReason,
    IpHeaders,
    parse_headers,
)
from overlay.forwarding.identification import permuted_identification
from overlay.forwarding.syn import is_syn, normalised_syn
from overlay.sensitive import SecretBytes

__all__ = ["HOP_LIMIT", "Normaliser"]

HOP_LIMIT: Final = 64
"""Most hosts use this initial value, so the destination sees a common one."""

_DONT_FRAGMENT: Final = 0x4000
_IPV4_FLAGS: Final = 0x7FFF
"""All bits except the reserved bit."""

_PASSING: Final = {4: frozenset((TCP, UDP, ICMP)), 6: frozenset((TCP, UDP, ICMPV6))}

_PASSING_TYPES: Final = {
    ICMP: frozenset((0, 3, 8, 11, 12)),  # RFC 792; without source quench and redirect
    ICMPV6: frozenset((1, 2, 3, 4, 128, 129)),  # RFC 4443; no neighbour or multicast discovery
}

_IPV4: Final = struct.Struct("!BBHHHBBH")
_IPV6: Final = struct.Struct("!IHBB")
_FRAGMENT: Final = struct.Struct("!BBHI")


class Normaliser:
    """Normalise single packets, without state other than the parameters.

    ``mss_ipv4`` and ``mss_ipv6`` are in bytes. ``identification_key`` is a random secret.
    """

    def __init__(self, mss_ipv4: int, mss_ipv6: int, identification_key: SecretBytes) -> None:
        self._mss = {4: mss_ipv4, 6: mss_ipv6}
        self._identification_key = identification_key

    def normalise(self, packet: bytes) -> bytes | DropReason:
        """Return the packet to send, or the reason to drop it.

        A packet that needs no change is returned as the same object.
        """
        headers = parse_headers(packet)
        if isinstance(headers, DropReason):
            return headers
        upper = self._upper_layer(packet, headers)
        if isinstance(upper, DropReason):
            return upper
        rebuilt = self._ip_headers(packet, headers, len(upper)) + upper
        return packet if rebuilt == packet else rebuilt

    def _upper_layer(self, packet: bytes, headers: IpHeaders) -> bytes | DropReason:
        protocol = headers.protocol
        if protocol not in _PASSING[headers.version]:
            return DropReason.PROTOCOL
        upper = packet[headers.upper :]
        if headers.fragment_offset:
            return upper
        if protocol == TCP and is_syn(upper):
            return normalised_syn(upper, self._mss[headers.version]) or DropReason.MALFORMED
        if protocol in _PASSING_TYPES and upper[0] not in _PASSING_TYPES[protocol]:
            return DropReason.ICMP_TYPE
        return upper

    def _ip_headers(self, packet: bytes, headers: IpHeaders, upper_bytes: int) -> bytes:
        if headers.version == 4:
            return self._ipv4_header(packet, headers, upper_bytes)
        fragment = self._fragment_header(packet, headers) if headers.fragment_header else b""
        first = IPV6_FRAGMENT if fragment else headers.protocol
        return (
            _IPV6.pack(6 << 28, len(fragment) + upper_bytes, first, HOP_LIMIT)
            + packet[8:40]
            + fragment
        )

    def _ipv4_header(self, packet: bytes, headers: IpHeaders, upper_bytes: int) -> bytes:
        flags = int.from_bytes(packet[6:8], "big") & _IPV4_FLAGS
        identification = 0
        if headers.is_fragment or not flags & _DONT_FRAGMENT:
            identification = permuted_identification(
                self._identification_key,
                int.from_bytes(packet[4:6], "big"),
                16,
                packet[12:20] + packet[9:10],
            )
        fields = (0x45, 0, 20 + upper_bytes, identification, flags, HOP_LIMIT, packet[9])
        addresses = packet[12:20]
        return (
            _IPV4.pack(*fields, internet_checksum(_IPV4.pack(*fields, 0) + addresses)) + addresses
        )

    def _fragment_header(self, packet: bytes, headers: IpHeaders) -> bytes:
        protocol, _, field, value = _FRAGMENT.unpack_from(packet, headers.fragment_header)
        identification = permuted_identification(self._identification_key, value, 32, packet[8:40])
        return _FRAGMENT.pack(protocol, 0, field & 0xFFF9, identification)
