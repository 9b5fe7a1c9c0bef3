"""Encode, parse and check the layer of one hop in an onion signalling message.

Both kinds of layer have 160 bytes; numbers are big-endian::

    kind (1) | ESP suite (1) | seed (32) | forward SPI (4) | backward SPI (4)
    | near circuit address C(i-1) (16) | expiry, minutes since 1970 (4) | lifetime, s (4)
    | far circuit address C(i) (16) | next overlay address (16)
    | next endpoint: IP version (1), address (16), port (2) | next link key (32)
    | IP versions of inner addresses (1) | reserved (10)

A layer for an exit has zeros in the fields of the next hop. A layer for a relay has zero in the
field of inner addresses. The reserved bytes are zero. *Near* is towards the source, *far* is
towards the destination.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from overlay.addresses import (
    CircuitAddress,
    Endpoint,
    OverlayAddress,
    is_circuit_address,
    is_overlay_address,
)
from overlay.apm.geometry import LAYER_BYTES
from overlay.apm.keys import SEED_BYTES
from overlay.errors import Malformed
from overlay.ipsec.interface import MIN_SPI, Spi
from overlay.ipsec.suites import SUITES
from overlay.link.events import LinkPeer
from overlay.sensitive import SecretBytes
from overlay.wire import ByteReader

__all__ = ["ExitLayer", "IpVersions", "Layer", "LayerTerms", "RelayLayer", "parse_layer"]

_RELAY: Final = 1
_EXIT: Final = 2
_NEXT_HOP_BYTES: Final = 16 + 16 + 1 + 16 + 2 + 32
_RESERVED_BYTES: Final = 10


class IpVersions(enum.Flag):
    """IP versions of inner addresses that a source requests from its exit."""

    IPV4 = 1
    IPV6 = 2


@dataclass(frozen=True, slots=True)
class LayerTerms:
    """The fields for every hop: its two onion SAs, its near circuit address, and two times.

    ``expires_min`` is the end of the message's validity in minutes since 1970. ``lifetime_s`` is
    the requested lifetime of the circuit in seconds.
    """

    esp_suite: int
    seed: SecretBytes
    forward_spi: Spi
    backward_spi: Spi
    near: CircuitAddress
    expires_min: int
    lifetime_s: int

    @property
    def expires(self) -> float:
        """The expiry time in Unix seconds."""
        return self.expires_min * 60.0

    def encode(self) -> bytes:
        """Return the fields from ESP suite to lifetime."""
        return b"".join(
            (
                bytes((self.esp_suite,)),
                self.seed.reveal(),
                self.forward_spi.to_bytes(4, "big"),
                self.backward_spi.to_bytes(4, "big"),
                self.near,
                self.expires_min.to_bytes(4, "big"),
                self.lifetime_s.to_bytes(4, "big"),
            )
        )


@dataclass(frozen=True, slots=True)
class RelayLayer:
    """A layer for a relay; it has the next hop's link key, so the relay needs no lookup."""

    terms: LayerTerms
    far: CircuitAddress
    next_hop: LinkPeer

    def encode(self) -> bytes:
        """Return the layer's 160 bytes."""
        endpoint = self.next_hop.endpoint
        packed = endpoint.packed
        return b"".join(
            (
                bytes((_RELAY,)),
                self.terms.encode(),
                self.far,
                self.next_hop.overlay_address,
                bytes((4 if len(packed) == 4 else 6,)),
                packed.ljust(16, b"\0"),
                endpoint.port.to_bytes(2, "big"),
                self.next_hop.link_key,
                bytes(1 + _RESERVED_BYTES),
            )
        )


@dataclass(frozen=True, slots=True)
class ExitLayer:
    """A layer for an exit; it requests inner addresses of these IP versions."""

    terms: LayerTerms
    families: IpVersions

    def encode(self) -> bytes:
        """Return the layer's 160 bytes."""
        return b"".join(
            (
                bytes((_EXIT,)),
                self.terms.encode(),
                bytes(_NEXT_HOP_BYTES),
                bytes((self.families.value,)),
                bytes(_RESERVED_BYTES),
            )
        )


Layer = RelayLayer | ExitLayer


def parse_layer(data: bytes) -> Layer:
    """Parse the plaintext of one layer.

    Raises:
        Malformed: the bytes are not the one valid encoding of a layer.
    """
    if len(data) != LAYER_BYTES:
        raise Malformed("a layer has another size")
    reader = ByteReader(data)
    kind = reader.u8()
    terms = _parse_terms(reader)
    layer: Layer
    if kind == _RELAY:
        layer = _parse_relay(reader, terms)
    elif kind == _EXIT:
        layer = _parse_exit(reader, terms)
    else:
        raise Malformed("a layer is for a relay or for an exit")
    if any(reader.take(_RESERVED_BYTES)):
        raise Malformed("a layer's reserved bytes must be zero")
    reader.end()
    return layer


def _parse_terms(reader: ByteReader) -> LayerTerms:
    esp_suite = reader.u8()
    if esp_suite not in SUITES:
        raise Malformed("the layer names an unknown ESP suite")
    seed = SecretBytes(reader.take(SEED_BYTES))
    forward_spi, backward_spi = reader.u32(), reader.u32()
    if min(forward_spi, backward_spi) < MIN_SPI:
        raise Malformed("the layer names a reserved SPI")
    near = _circuit_address(reader)
    expires_min, lifetime_s = reader.u32(), reader.u32()
    if lifetime_s == 0:
        raise Malformed("a circuit lives for at least a second")
    return LayerTerms(
        esp_suite=esp_suite,
        seed=seed,
        forward_spi=Spi(forward_spi),
        backward_spi=Spi(backward_spi),
        near=near,
        expires_min=expires_min,
        lifetime_s=lifetime_s,
    )


def _circuit_address(reader: ByteReader) -> CircuitAddress:
    packed = reader.take(16)
    if not is_circuit_address(packed):
        raise Malformed("the layer needs a circuit address")
    return CircuitAddress(packed)


def _parse_relay(reader: ByteReader, terms: LayerTerms) -> RelayLayer:
    far = _circuit_address(reader)
    if far == terms.near:
        raise Malformed("the two circuit addresses of a hop must differ")
    overlay_address = reader.take(16)
    if not is_overlay_address(overlay_address):
        raise Malformed("the next hop needs an overlay address")
    endpoint = _parse_endpoint(reader)
    link_key = reader.take(32)
    if reader.u8() != 0:
        raise Malformed("a relay gives no inner address")
    return RelayLayer(terms, far, LinkPeer(OverlayAddress(overlay_address), link_key, endpoint))


def _parse_endpoint(reader: ByteReader) -> Endpoint:
    family, packed, port = reader.u8(), reader.take(16), reader.u16()
    if family == 4:
        if any(packed[4:]):
            raise Malformed("an IPv4 endpoint fills four bytes")
        return Endpoint.from_packed(packed[:4], port)
    if family != 6 or packed.startswith(bytes(10) + b"\xff\xff"):
        raise Malformed("the next endpoint's family must be 4 or 6")
    return Endpoint.from_packed(packed, port)


def _parse_exit(reader: ByteReader, terms: LayerTerms) -> ExitLayer:
    if any(reader.take(_NEXT_HOP_BYTES)):
        raise Malformed("an exit has no next hop")
    families = reader.u8()
    if not 1 <= families <= 3:
        raise Malformed("an exit is asked for IPv4, IPv6 or both")
    return ExitLayer(terms, IpVersions(families))
