"""The two MACs of an initiation and the cookie, which protect a responder against floods.

mac1 proves that the sender knows the receiver's link key and network, from which its key is
derived. mac2 proves that the sender receives packets at its address. Its key is the cookie, a MAC
over the sender's endpoint, which the responder does not store because it can compute it again.

A cookie reply is encrypted with a key derived from the receiver's link key and the initiation's
mac1. So only a node that has seen the initiation can create or read the reply.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass
from random import Random
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.addresses import Endpoint
from overlay.errors import NotAuthentic
from overlay.link.handshake import GEOMETRY, NUMBER_AT, CookieReply, MessageType, header

__all__ = [
    "COOKIE_ROTATION_S",
    "CookieJar",
    "LoadMeter",
    "ReceiverKeys",
    "is_under_cookie",
    "open_cookie",
    "source_prefix",
    "with_macs",
]

COOKIE_ROTATION_S: Final = 120.0
"""Lifetime of a cookie secret. A cookie is valid for one to two of these periods, which is longer
than a handshake and short for a host that changes its address."""

_MAC1_LABEL: Final = b"overlay link mac1 v1"
_COOKIE_LABEL: Final = b"overlay link cookie v1"

_BEFORE_MAC1: Final = slice(0, -2 * GEOMETRY.mac)
_MAC1: Final = slice(-2 * GEOMETRY.mac, -GEOMETRY.mac)
_BEFORE_MAC2: Final = slice(0, -GEOMETRY.mac)
_MAC2: Final = slice(-GEOMETRY.mac, None)
_NO_MAC2: Final = bytes(GEOMETRY.mac)
_SENDER_INDEX: Final = slice(NUMBER_AT, GEOMETRY.header)
_REPLY_OPENING: Final = header(MessageType.COOKIE_REPLY, 0)[:NUMBER_AT]


@dataclass(frozen=True, slots=True)
class ReceiverKeys:
    """The keys that any node can compute from a responder's link key and network."""

    mac1: bytes
    cookie: bytes

    @classmethod
    def of(cls, link_key: bytes, network_hash: bytes) -> ReceiverKeys:
        """Return the keys for messages to the holder of ``link_key``."""
        return cls(
            mac1=hashlib.sha256(_MAC1_LABEL + network_hash + link_key).digest(),
            cookie=hashlib.sha256(_COOKIE_LABEL + network_hash + link_key).digest(),
        )

    def is_valid(self, initiation: bytes) -> bool:
        """Tell whether the mac1 of an encoded initiation is valid."""
        return hmac.compare_digest(initiation[_MAC1], _mac(self.mac1, initiation[_BEFORE_MAC1]))


def with_macs(message: bytes, keys: ReceiverKeys, cookie: bytes | None) -> bytes:
    """Append mac1 and mac2 to an initiation; without a cookie mac2 is zero."""
    body = message + _mac(keys.mac1, message)
    return body + (bytes(GEOMETRY.mac) if cookie is None else _mac(cookie, body))


def is_under_cookie(initiation: bytes, cookie: bytes) -> bool:
    """Tell whether mac2 of an encoded initiation was made with this cookie."""
    return hmac.compare_digest(initiation[_MAC2], _mac(cookie, initiation[_BEFORE_MAC2]))


def open_cookie(reply: CookieReply, keys: ReceiverKeys, mac1: bytes) -> bytes:
    """Return the cookie that a responder sent for the initiation with this ``mac1``.

    Raises:
        NotAuthentic: it answers another initiation, or its sender did not see this one.
    """
    key = _reply_key(keys, reply.nonce, mac1)
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), reply.sealed, None)
    except InvalidTag as error:
        raise NotAuthentic("a cookie reply does not decrypt") from error


class CookieJar:
    """Create and verify this responder's cookies. The only state is two secrets."""

    def __init__(self, keys: ReceiverKeys, rng: Random) -> None:
        self._keys = keys
        self._rng = rng
        self._current = rng.randbytes(32)
        self._previous = rng.randbytes(32)
        self._rotated_at: float | None = None

    def reply(self, initiation: bytes, source: Endpoint, now: float) -> bytes:
        """Return the encoded cookie reply to an encoded initiation with a valid mac1."""
        self._rotate(now)
        nonce = self._rng.randbytes(GEOMETRY.cookie_nonce)
        cookie = _mac(self._current, _endpoint_bytes(source))
        # The AEAD nonce may be zero, because a random 128-bit nonce makes the key unique.
        key = _reply_key(self._keys, nonce, initiation[_MAC1])
        sealed = ChaCha20Poly1305(key).encrypt(bytes(12), cookie, None)
        # Not through CookieReply, because a flood of initiations causes many replies.
        return _REPLY_OPENING + initiation[_SENDER_INDEX] + nonce + sealed

    def is_valid(self, initiation: bytes, source: Endpoint, now: float) -> bool:
        """Tell whether mac2 of an encoded initiation proves that its sender is at ``source``."""
        mac2, body = initiation[_MAC2], initiation[_BEFORE_MAC2]
        if mac2 == _NO_MAC2:
            return False
        self._rotate(now)
        where = _endpoint_bytes(source)
        expected = [_mac(_mac(secret, where), body) for secret in (self._current, self._previous)]
        return any([hmac.compare_digest(mac2, each) for each in expected])  # noqa: C419 - compare both, always

    def _rotate(self, now: float) -> None:
        if self._rotated_at is None:
            self._rotated_at = now
        age = now - self._rotated_at
        if age < COOKIE_ROTATION_S:
            return
        fresh = self._rng.randbytes(32)
        self._previous = self._current if age < 2 * COOKIE_ROTATION_S else self._rng.randbytes(32)
        self._current, self._rotated_at = fresh, now


class LoadMeter:
    """Measure the rate of initiations per second, as an exponentially decaying count."""

    def __init__(self, cookie_above_per_s: int) -> None:
        self._cookie_above = cookie_above_per_s
        self._rate_per_s = 0.0
        self._now: float | None = None

    def is_high(self, now: float) -> bool:
        """Tell whether one more initiation would exceed the limit, without counting it."""
        return self._forgotten(now) + 1 > self._cookie_above

    def is_overloaded(self, now: float) -> bool:
        """Count one initiation and tell whether the rate now exceeds the limit."""
        self._rate_per_s = self._forgotten(now) + 1
        self._now = now
        return self._rate_per_s > self._cookie_above

    def _forgotten(self, now: float) -> float:
        """Return the rate at ``now``, reduced by a factor of e for each second that has passed."""
        if now == self._now:  # another initiation of the same batch
            return self._rate_per_s
        passed_s = 0.0 if self._now is None else max(now - self._now, 0.0)
        return self._rate_per_s * math.exp(-passed_s)


def source_prefix(source: Endpoint) -> bytes:
    """Return the prefix of an address: an IPv4 /24 (3 bytes) or an IPv6 /56 (7 bytes).

    One customer of a network usually has no more than this.
    """
    packed = source.packed
    return packed[:3] if len(packed) == 4 else packed[:7]


def _mac(key: bytes, data: bytes) -> bytes:
    # Keyed BLAKE2s takes a third of the time of HMAC-SHA-256, and a flood causes many of these.
    return hashlib.blake2s(data, digest_size=GEOMETRY.mac, key=key).digest()


def _endpoint_bytes(endpoint: Endpoint) -> bytes:
    return endpoint.packed + endpoint.port.to_bytes(2, "big")


def _reply_key(keys: ReceiverKeys, nonce: bytes, mac1: bytes) -> bytes:
    return hashlib.blake2s(nonce + mac1, key=keys.cookie).digest()
