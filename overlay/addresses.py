"""Types of the overlay's addresses and ids, with functions that make and check them.

=====================  ==========================================================
``NodeId``             20 bytes: a hash of the identity key, Kademlia's key space
``OverlayAddress``     16 bytes in ``fd6d:6978::/32``: the node, inside the overlay
``CircuitAddress``     16 bytes in ``fd63:6972::/32``: one link of one circuit
``InnerAddress``       4 or 16 bytes: what the exit lends the source
``Endpoint``           a UDP address on the network that carries the overlay
=====================  ==========================================================

The first four are packed (network byte order), as the data path uses them. The prefixes of overlay
and circuit addresses are unique local addresses (RFC 4193).
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple, NewType

from overlay.errors import Malformed

__all__ = [
    "CIRCUIT_PREFIX",
    "NODE_ID_BYTES",
    "OVERLAY_NETWORKS",
    "OVERLAY_PREFIX",
    "CircuitAddress",
    "Endpoint",
    "InnerAddress",
    "IpAddress",
    "IpNetwork",
    "NodeId",
    "OverlayAddress",
    "format_address",
    "is_circuit_address",
    "is_circuit_address_between",
    "is_overlay_address",
    "new_circuit_address",
    "packed_host",
    "version_of",
]

NodeId = NewType("NodeId", bytes)
OverlayAddress = NewType("OverlayAddress", bytes)
CircuitAddress = NewType("CircuitAddress", bytes)
InnerAddress = NewType("InnerAddress", bytes)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NODE_ID_BYTES: Final = 20
OVERLAY_PREFIX: Final = bytes.fromhex("fd6d6978")
CIRCUIT_PREFIX: Final = bytes.fromhex("fd636972")

OVERLAY_NETWORKS: Final = tuple(
    ipaddress.IPv6Network((prefix + bytes(16 - len(prefix)), 8 * len(prefix)))
    for prefix in (OVERLAY_PREFIX, CIRCUIT_PREFIX)
)
"""Networks of overlay and circuit addresses. Packets to or from them are always encrypted."""

_PAIR_LABEL: Final = b"overlay circuit address v1"
_NONCE_BYTES: Final = 4


class Endpoint(NamedTuple):
    """A UDP endpoint: a literal IP address (never a host name) and a port from 1 to 65535."""

    host: str
    port: int

    @classmethod
    def parse(cls, host: object, port: object) -> Endpoint:
        """Check an endpoint that a peer sent and return its canonical form.

        Raises:
            Malformed: ``host`` is no literal IP address or ``port`` no UDP port. Names are
                refused, because resolving one would block, and reveal this node to a name server.
        """
        if not isinstance(host, str) or type(port) is not int or not 1 <= port <= 65535:
            raise Malformed("an endpoint needs a literal IP address and a port from 1 to 65535")
        if len(host) > 45 or "%" in host:
            raise Malformed("an endpoint's address must be a literal IP address without a zone")
        try:
            return _canonical(host, port)
        except ValueError as error:
            raise Malformed("an endpoint's host must be a literal IP address") from error

    @classmethod
    def from_packed(cls, packed: bytes, port: int) -> Endpoint:
        """Return the endpoint of a packed (4 or 16 bytes) address.

        Raises:
            Malformed: the address has another size or the port is 0.
        """
        if len(packed) not in (4, 16):
            raise Malformed("a packed address has 4 or 16 bytes")
        return cls.parse(str(ipaddress.ip_address(packed)), port)

    @property
    def address(self) -> IpAddress:
        """The host as an :mod:`ipaddress` value."""
        return ipaddress.ip_address(self.host)

    @property
    def packed(self) -> bytes:
        """The host in network byte order: 4 bytes (IPv4) or 16 (IPv6)."""
        return packed_host(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def version_of(endpoint: Endpoint) -> int:
    """Return the IP version of an endpoint, 4 or 6."""
    return 6 if ":" in endpoint.host else 4


@lru_cache(maxsize=32_768)
def _canonical(host: str, port: int) -> Endpoint:
    """Write a literal address in its canonical form."""
    if _is_canonical(host):
        return Endpoint(host, port)
    return Endpoint(str(_unmapped(ipaddress.ip_address(host))), port)


def _is_canonical(host: str) -> bool:
    """Tell whether the text of a host is certainly in the form that :mod:`ipaddress` writes.

    This takes a tenth of the time of a conversion, which matters for floods of datagrams from new
    addresses. The result is False for IPv6 addresses that are written with an IPv4 address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family == socket.AF_INET6 and "." in host:
        return False
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host)) == host
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=32_768)
def packed_host(host: str) -> bytes:
    """Return a literal address in network byte order: 4 bytes (IPv4) or 16 (IPv6)."""
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def _unmapped(address: IpAddress) -> IpAddress:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_overlay_address(packed: bytes) -> bool:
    """Tell whether ``packed`` is a node's overlay address."""
    return len(packed) == 16 and packed.startswith(OVERLAY_PREFIX)


def is_circuit_address(packed: bytes) -> bool:
    """Tell whether ``packed`` is a circuit address."""
    return len(packed) == 16 and packed.startswith(CIRCUIT_PREFIX)


def new_circuit_address(
    near_node: OverlayAddress, far_node: OverlayAddress, rng: Random
) -> CircuitAddress:
    """Draw a circuit address that only these two neighbours can share.

    Its form is ``prefix (4) | nonce (4) | tag (8)``. The tag is a hash of the nonce and both
    overlay addresses, beginning with the one towards the source (docs/decisions/0010).
    """
    nonce = rng.randbytes(_NONCE_BYTES)
    return CircuitAddress(CIRCUIT_PREFIX + nonce + _pair_tag(nonce, near_node, far_node))


def is_circuit_address_between(
    packed: bytes, near_node: OverlayAddress, far_node: OverlayAddress
) -> bool:
    """Tell whether ``packed`` was drawn for these two neighbours, in this order."""
    start = len(CIRCUIT_PREFIX)
    nonce, tag = packed[start : start + _NONCE_BYTES], packed[start + _NONCE_BYTES :]
    return is_circuit_address(packed) and tag == _pair_tag(nonce, near_node, far_node)


def _pair_tag(nonce: bytes, near_node: OverlayAddress, far_node: OverlayAddress) -> bytes:
    return hashlib.sha256(_PAIR_LABEL + nonce + near_node + far_node).digest()[:8]


def format_address(packed: bytes) -> str:
    """Return a packed address as text for output that the user requested, never for a log."""
    return str(ipaddress.ip_address(packed))
