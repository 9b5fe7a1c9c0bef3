"""The onion-like signalling message (NESM): constant in size, unlinkable from hop to hop.

How a hop peels (K slots; *rest* is everything after the first slot)::

    received   header | slot 0 | rest                       K slots
    open       slot 0 with the onion key, bound to header and rest
    passed on  header | rest XOR stream(seed) | filler(seed)  K slots again

The source knows every seed, so it computes beforehand what fillers and streams make of the
tail of the message at each hop (Sphinx, Danezis and Goldberg 2009, section 3.2), puts that
tail where it will be, and seals from the last hop to the first. So each hop's layer
authenticates the whole message as that hop receives it, tail included, and any changed bit
is detected at the very next hop.

Slots that no hop uses hold random bytes, which no hop can tell from sealed layers.
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
    """What the source knows of one hop: its public onion key and what to tell it."""

    onion_key: bytes
    layer: Layer


@dataclass(frozen=True, slots=True)
class SealedOnion:
    """A message as received: right in size and suite, nothing else is known of it."""

    geometry: NesmGeometry
    slot: bytes
    rest: bytes

    @classmethod
    def parse(cls, data: bytes) -> SealedOnion:
        """Split a message into its first slot and the rest.

        Raises:
            Malformed: another version, an unknown suite, another size.
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
        """The 16 bytes by which a hop remembers this message."""
        return replay_tag(self.slot[: self.geometry.encapsulated_key_bytes])


@dataclass(frozen=True, slots=True)
class ExtractedOnion:
    """What a hop learns; ``peeled`` is the message for the next hop, None at the exit."""

    layer: Layer
    keys: HopKeys
    peeled: bytes | None


def construct_onion(suite: int, hops: Sequence[OnionHop], rng: Random) -> bytes:
    """Build the message for a path: the paper's ``nesm_construct_onion()``.

    Args:
        suite: onion suite of all hops.
        hops: first hop first; every layer but the last is a :class:`RelayLayer`.
        rng: fills the unused slots.

    Raises:
        ValueError: no hops, more hops than slots, or layers out of order.
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
    """Return what the relays' fillers have become when the message reaches the last hop."""
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
    """Open our layer and peel the message: the paper's ``nesm_extract_onion_info()``.

    Raises:
        NotAuthentic: it is not for our key, or any bit of it was changed.
        Malformed: it is authentic and holds no layer.
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
