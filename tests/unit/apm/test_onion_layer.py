from __future__ import annotations

from random import Random

import pytest

from overlay.addresses import Endpoint, OverlayAddress, new_circuit_address
from overlay.apm.carrier import MAX_FRAGMENT_BYTES, MAX_MESSAGE_BYTES
from overlay.apm.geometry import GEOMETRIES, LAYER_BYTES
from overlay.apm.layer import ExitLayer, IpVersions, Layer, LayerTerms, RelayLayer, parse_layer
from overlay.errors import Malformed
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.sensitive import SecretBytes

RNG = Random(7)
V0, V1, V2 = (OverlayAddress(bytes.fromhex("fd6d6978") + RNG.randbytes(12)) for _ in range(3))
TERMS = LayerTerms(
    esp_suite=3,
    seed=SecretBytes(RNG.randbytes(32)),
    forward_spi=Spi(1000),
    backward_spi=Spi(2**32 - 1),
    near=new_circuit_address(V0, V1, RNG),
    expires_min=28_000_000,
    lifetime_s=3600,
)
LAYERS: list[Layer] = [
    RelayLayer(
        TERMS,
        new_circuit_address(V1, V2, RNG),
        LinkPeer(V2, RNG.randbytes(32), Endpoint(host, 4500)),
    )
    for host in ("203.0.113.7", "2001:db8::7")
] + [ExitLayer(TERMS, IpVersions(families)) for families in (1, 2, 3)]

AT = {
    "kind": 0,
    "suite": 1,
    "forward spi": 34,
    "near": 42,
    "lifetime": 62,
    "far": 66,
    "overlay": 82,
    "family": 98,
    "endpoint": 99,
    "port": 115,
    "families": 149,
    "reserved": 150,
}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layer_of_any_kind_has_one_size_and_comes_back(layer: Layer) -> None:
    encoded = layer.encode()
    assert len(encoded) == LAYER_BYTES
    assert parse_layer(encoded) == layer


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_truncated_or_extended_layer_is_malformed(layer: Layer) -> None:
    encoded = layer.encode()
    for wrong in (b"", encoded[:-1], encoded + b"\0"):
        with pytest.raises(Malformed):
            parse_layer(wrong)


def patched(layer: Layer, field: str, value: bytes) -> bytes:
    encoded = bytearray(layer.encode())
    encoded[AT[field] : AT[field] + len(value)] = value
    assert bytes(encoded) != layer.encode()
    return bytes(encoded)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", b"\x00"),
        ("kind", b"\x02"),
        ("kind", b"\x03"),
        ("suite", b"\x00"),
        ("suite", b"\xff"),
        ("forward spi", bytes(4)),
        ("forward spi", b"\0\0\0\xff"),
        ("near", bytes(16)),
        ("near", b"\xfd\x6d\x69\x78"),
        ("lifetime", bytes(4)),
        ("far", bytes(16)),
        ("far", TERMS.near),
        ("overlay", bytes(16)),
        ("family", b"\x05"),
        ("family", b"\x06"),
        ("endpoint", b"\x01\x02\x03\x04\x05"),
        ("port", bytes(2)),
        ("families", b"\x01"),
        ("reserved", b"\x01"),
    ],
)
def test_relay_layer_with_an_impossible_field_is_malformed(field: str, value: bytes) -> None:
    if (field, value) == ("family", b"\x06"):
        # An IPv4-mapped address has a family of its own.
        wrong = bytearray(patched(LAYERS[0], field, value))
        wrong[AT["endpoint"] : AT["endpoint"] + 16] = bytes(10) + b"\xff\xff" + bytes((1, 2, 3, 4))
        with pytest.raises(Malformed):
            parse_layer(bytes(wrong))
        return
    with pytest.raises(Malformed):
        parse_layer(patched(LAYERS[0], field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", b"\x01"),
        ("far", b"\xfd"),
        ("port", b"\x01"),
        ("families", b"\x00"),
        ("families", b"\x04"),
        ("reserved", b"\x01"),
    ],
)
def test_exit_layer_with_an_impossible_field_is_malformed(field: str, value: bytes) -> None:
    with pytest.raises(Malformed):
        parse_layer(patched(LAYERS[2], field, value))


def test_seed_does_not_show_in_a_layers_repr() -> None:
    assert TERMS.seed.reveal().hex() not in repr(LAYERS[0])
    assert repr(TERMS.seed.reveal()) not in repr(LAYERS[0])


def test_default_message_fits_one_fragment_and_the_hybrid_one_sixteen() -> None:
    assert GEOMETRIES[1].message_bytes == 1042 <= MAX_FRAGMENT_BYTES
    assert GEOMETRIES[2].message_bytes == 6482 <= MAX_MESSAGE_BYTES
