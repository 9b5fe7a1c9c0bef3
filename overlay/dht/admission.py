"""Decide which senders get an answer, and how often: endpoints, cookies and rate limits.

These checks are cheap, because any sender can cause them: one hash for a cookie, one table look-up
for a rate. Signatures are verified only after these checks.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from functools import lru_cache
from typing import Final

from overlay.addresses import Endpoint, NodeId, is_circuit_address, is_overlay_address, packed_host
from overlay.dht.envelope import COOKIE_BYTES
from overlay.sensitive import SecretBytes
from overlay.shares import FRACTIONS, Group, Groups, groups_of
from overlay.special_networks import forbidden_packed

__all__ = [
    "COOKIE_ROTATION_S",
    "IPV6_SUBNET_BYTES",
    "MAX_SOURCES",
    "Cookies",
    "SourceLimiter",
    "budget_groups",
    "host_allowed",
    "origin",
    "prefix_of",
    "source_group",
]

COOKIE_ROTATION_S: Final = 300
"""The secret changes every 5 minutes, and the previous one is still valid (as tokens in BEP 5)."""

IPV6_SUBNET_BYTES: Final = 6
"""A /48, which is the usual allocation to a site or to a user of a tunnel."""

MAX_SOURCES: Final = 4096
_MULTICAST_V4: Final = 224
_MULTICAST_V6: Final = 255
"""First bytes of multicast addresses (RFC 5771; RFC 4291, section 2.7)."""

_COOKIE_LABEL: Final = b"overlay dht cookie v1"


@lru_cache(maxsize=32_768)
def host_allowed(host: str, allow_private: bool) -> bool:
    """Tell whether a datagram may go to a canonical address.

    Multicast, unspecified, broadcast and reserved addresses are never permitted, and neither are
    overlay and circuit addresses. Other addresses must be globally reachable, unless
    ``allow_private`` is set for a laboratory or a private network.
    """
    packed = packed_host(host)
    if len(packed) == 4:
        # Reserved addresses follow after the multicast ones.
        never = packed[0] == 0 or packed[0] >= _MULTICAST_V4
    else:
        never = (
            packed[0] == _MULTICAST_V6
            or not any(packed)
            or is_overlay_address(packed)
            or is_circuit_address(packed)
        )
    return not never and (allow_private or forbidden_packed(packed) is None)


@lru_cache(maxsize=32_768)
def origin(host: str, port: int, allow_private: bool) -> Endpoint | None:
    """Return where a datagram came from in its canonical form; None if nothing may go there.

    Raises:
        Malformed: this is not an endpoint.
    """
    endpoint = Endpoint.parse(host, port)
    return endpoint if host_allowed(endpoint.host, allow_private) else None


@lru_cache(maxsize=32_768)
def source_group(endpoint: Endpoint, *, limit_private: bool) -> bytes:
    """Return the prefix that counts as one source: /24 of an IPv4, /48 of an IPv6 endpoint.

    Unless ``limit_private``, each private endpoint counts separately. Otherwise a laboratory on
    one machine would reach the limits for attackers.
    """
    packed = endpoint.packed
    if not limit_private and forbidden_packed(packed) is not None:
        return packed + endpoint.port.to_bytes(2, "big")
    return prefix_of(endpoint)


def prefix_of(endpoint: Endpoint) -> bytes:
    """Return the /24 of an IPv4 or the /48 of an IPv6 endpoint, private ones included."""
    packed = endpoint.packed
    return packed[:3] if len(packed) == 4 else packed[:IPV6_SUBNET_BYTES]


@lru_cache(maxsize=32_768)
def budget_groups(endpoint: Endpoint, *, limit_private: bool) -> Groups:
    """Return the groups whose shares of CPU time a request of an endpoint uses.

    A private endpoint counts separately unless ``limit_private``, as in :func:`source_group`.
    """
    source = source_group(endpoint, limit_private=limit_private)
    if len(source) > len(endpoint.packed):
        return (Group(source, FRACTIONS[0]),)
    return groups_of(endpoint.packed)


class Cookies:
    """Proofs that a sender receives at the address it sends from, without any state.

    A cookie is keyed BLAKE2s over the address and the sender's NodeId under a secret that
    changes with each epoch; it counts in its own epoch and the next, 5 to 10 minutes. HMAC
    would cost ten times as much, and any sender can request cookies.
    """

    def __init__(self, master: SecretBytes) -> None:
        self._master = master
        self._secrets: dict[int, bytes] = {}

    def issue(self, endpoint: Endpoint, sender: NodeId, now: float) -> bytes:
        """Return the 16-byte cookie of this address and node."""
        return self._cookie(endpoint, sender, int(now // COOKIE_ROTATION_S))

    def valid(self, cookie: bytes, endpoint: Endpoint, sender: NodeId, now: float) -> bool:
        """Tell whether ``cookie`` was issued to this address and node and is still valid."""
        epoch = int(now // COOKIE_ROTATION_S)
        if len(cookie) != COOKIE_BYTES:
            return False
        # In this order, because most cookies are of the current epoch.
        return hmac.compare_digest(
            cookie, self._cookie(endpoint, sender, epoch)
        ) or hmac.compare_digest(cookie, self._cookie(endpoint, sender, epoch - 1))

    def _cookie(self, endpoint: Endpoint, sender: NodeId, epoch: int) -> bytes:
        message = sender + endpoint.port.to_bytes(2, "big") + endpoint.packed
        secret = self._secrets.get(epoch) or self._new_secret(epoch)
        return hashlib.blake2s(message, digest_size=COOKIE_BYTES, key=secret).digest()

    def _new_secret(self, epoch: int) -> bytes:
        """Derive an epoch's secret; those of the two that count are kept."""
        label = _COOKIE_LABEL + epoch.to_bytes(8, "big", signed=True)
        secret = hmac.digest(self._master.reveal(), label, "sha256")
        self._secrets = {
            each: kept for each, kept in self._secrets.items() if abs(each - epoch) == 1
        }
        self._secrets[epoch] = secret
        return secret


class SourceLimiter:
    """Limit the requests of each source by a token bucket.

    There are at most 4,096 buckets, and the least recently used one is removed first. A bucket
    that is full again is removed as well, because it has no effect. Only senders that echoed a
    cookie count, so a forged source address cannot use up the tokens of another sender.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._full_after_s = burst / rate_per_s
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of remembered sources, at most 4,096."""
        return len(self._buckets)

    def allow(self, source: bytes, now: float) -> bool:
        """Take one token of ``source``; False if it has none."""
        tokens, since = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        self._forget(now - self._full_after_s)
        return allowed

    def _forget(self, before: float) -> None:
        """Remove sources last seen before that, and the least recently used one above the limit."""
        buckets = self._buckets
        while len(buckets) > MAX_SOURCES or next(iter(buckets.values()))[1] < before:
            buckets.popitem(last=False)
