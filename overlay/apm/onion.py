"""Build and open the onion-like signalling message (NESM).

Its size is constant, and an observer cannot link the messages before and after a hop. A hop
processes it as follows (K slots; *rest* is everything after the first slot)::

    received   header | slot 0 | rest                       K slots
    open       slot 0 with the onion key, bound to header and rest
    passed on  header | rest XOR stream(seed) | filler(seed)  K slots again

The source knows all seeds. So it computes the tail of the message at the last hop, which consists
of the encrypted fillers (Sphinx, Danezis and Goldberg 2009, section 3.2). It places this tail in
the message and encrypts from the last hop to the first. So each layer authenticates the whole
message as its hop receives it, and the next hop detects any changed bit.

Unused slots contain random bytes, which hops cannot distinguish from encrypted layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.apm.crypto import (
    OnionPrivateKey,
    apply_stream,
    nesm_decrypt_data,
    nesm_encrypt_data,
)
from overlay.apm.geometry import GEOMETRIES, NESM_VERSION, NesmGeometry
from overlay.apm.keys import HopKeys
from overlay.apm.layer import ExitLayer, Layer, RelayLayer, parse_layer
from overlay.apm.replay import replay_tag
from overlay.errors import Malformed, NotAuthentic

__all__ = [
    "ExtractedOnion",
    "OnionHop",
    "SealedOnion",
    "construct_onion",
    "extract_onion_info",
]

_INFO_LABEL: Final = b"overlay nesm v1 layer"


@dataclass(frozen=True, slots=True)
class OnionHop:
    """The public onion key of one hop, and its layer."""

    onion_key: bytes
    layer: Layer


@dataclass(frozen=True, slots=True)
class SealedOnion:
    """A received message with valid version, suite and size; nothing else is checked yet."""

    geometry: NesmGeometry
    slot: bytes
    rest: bytes

    @classmethod
    def parse(cls, data: bytes) -> SealedOnion:
        """Split a message into its first slot and the rest.

        Raises:
            Malformed: the version, suite or size is invalid.
        """
        if len(data) < 2 or data[0] != NESM_VERSION or data[1] not in GEOMETRIES:
            raise Malformed("no onion signalling message of a known version and suite")
        geometry = GEOMETRIES[data[1]]
        if len(data) != geometry.message_bytes:
            raise Malformed("an onion signalling message has one size")
        start = geometry.header_bytes
        end = start + geometry.slot_bytes
        return cls(geometry, data[start:end], data[end:])

    @property
    def replay_tag(self) -> bytes:
        """The 16 bytes that identify this message in the replay cache."""
        return replay_tag(self.slot[: self.geometry.encapsulated_key_bytes])


@dataclass(frozen=True, slots=True)
class ExtractedOnion:
    """What a hop decrypts; ``peeled`` is the message for the next hop, None at the exit."""

    layer: Layer
    keys: HopKeys
    peeled: bytes | None


def construct_onion(suite: int, hops: Sequence[OnionHop], rng: Random) -> bytes:
    """Build the message for a path: the paper's ``nesm_construct_onion()``.

    Args:
        suite: onion suite of all hops.
        hops: first hop first; every layer except the last is a :class:`RelayLayer`.
        rng: generator of the bytes in unused slots.

    Raises:
        ValueError: there are no hops, more hops than slots, or layers in a wrong order.
        NotAuthentic: a hop's onion key is not valid.
    """
    geometry = GEOMETRIES[suite]
    _check_order(hops, geometry)
    keys = [HopKeys.derive(hop.layer.terms.seed, hop.layer.terms.esp_suite) for hop in hops]
    tail = _tail_at_last_hop(keys[:-1], geometry)
    rest = rng.randbytes(geometry.rest_bytes - len(tail)) + tail
    message = _seal(hops[-1], rest, geometry)
    for hop, hop_keys in zip(reversed(hops[:-1]), reversed(keys[:-1]), strict=True):
        shifted = message[geometry.header_bytes : -geometry.slot_bytes]
        message = _seal(hop, apply_stream(hop_keys.stream, shifted), geometry)
    return message


def _check_order(hops: Sequence[OnionHop], geometry: NesmGeometry) -> None:
    if not 1 <= len(hops) <= geometry.slots:
        raise ValueError(f"a path has 1 to {geometry.slots} hops")
    kinds = [type(hop.layer) for hop in hops]
    if kinds != [RelayLayer] * (len(hops) - 1) + [ExitLayer]:
        raise ValueError("every hop but the last is a relay, and the last is the exit")


def _tail_at_last_hop(relays: Sequence[HopKeys], geometry: NesmGeometry) -> bytes:
    """Return the fillers of all relays as the last hop receives them."""
    tail = b""
    for keys in relays:
        keystream = apply_stream(keys.stream, bytes(geometry.rest_bytes))
        covered = keystream[geometry.rest_bytes - len(tail) :]
        tail = _xor(tail, covered) + keys.filler_slot(geometry.slot_bytes)
    return tail


def _xor(left: bytes, right: bytes) -> bytes:
    size = len(left)
    value = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return value.to_bytes(size, "big")


def _info(geometry: NesmGeometry, rest: bytes) -> bytes:
    return _INFO_LABEL + hashlib.sha256(geometry.header + rest).digest()


def _seal(hop: OnionHop, rest: bytes, geometry: NesmGeometry) -> bytes:
    slot = nesm_encrypt_data(
        geometry.suite, hop.onion_key, hop.layer.encode(), _info(geometry, rest)
    )
    return geometry.header + slot + rest


def extract_onion_info(onion: SealedOnion, key: OnionPrivateKey) -> ExtractedOnion:
    """Decrypt the layer of this node and build the next message.

    This is the paper's ``nesm_extract_onion_info()``.

    Raises:
        NotAuthentic: the message is not for this key, or a bit of it was changed.
        Malformed: it is authentic, but contains no valid layer.
    """
    geometry = onion.geometry
    if key.suite != geometry.suite:
        raise NotAuthentic("we have no onion key of this suite")
    plaintext = nesm_decrypt_data(key, onion.slot, _info(geometry, onion.rest))
    layer = parse_layer(plaintext)
    keys = HopKeys.derive(layer.terms.seed, layer.terms.esp_suite)
    if isinstance(layer, ExitLayer):
        return ExtractedOnion(layer, keys, None)
    shifted = apply_stream(keys.stream, onion.rest)
    filler = keys.filler_slot(geometry.slot_bytes)
    return ExtractedOnion(layer, keys, geometry.header + shifted + filler)
