"""Limit the connections of each circuit at an exit, and of all circuits together.

All circuits share the host's connection tracking and ports. Without limits, one circuit can take
all ports of the exit towards a server (28,000 by default) or fill the kernel's table. Then the
host itself and all other circuits lose their connections.

::

    first packet of a connection ──> circuit begins connections too fast?            drop
                                 ──> circuit is at its limit of connections?         drop
                                 ──> its part of the pool is at its limit?           drop

Inner addresses are random, so equal parts of a pool get equal shares of the total. One counter for
the whole pool would be simpler. But the kernel iterates over the counter's list of connections for
each new connection (Linux, nf_conncount), which takes milliseconds for 100,000 connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.kernel_settings import read_setting
from overlay.system.packet_filter import ConnectionLimit, Hook, RateLimit, Rule, Verdict

__all__ = ["ExitLimits", "limit_rules", "refused_destinations", "within_kernel_table"]

_BURST_S: Final = 10
"""Burst of new connections, as seconds of the permitted rate."""

_LEAST_SHARE: Final = 2
"""Minimum number of circuits at their limit that fit into one part of the pool."""

_LEAST_CIRCUITS: Final = 8
"""Minimum number of circuits at their limit that fit into the share of an IP version."""

_LEAST_CONNECTIONS: Final = 64
"""A small total does not lower a circuit's limit below this; a web page needs about as many."""

_MOST_PARTS: Final = 64
_KERNEL_TABLE: Final = "net/netfilter/nf_conntrack_max"


@dataclass(frozen=True, slots=True)
class ExitLimits:
    """Limits of an exit; 0 means no limit.

    Attributes:
        per_circuit: connections at a time of each inner address.
        per_second: new connections per second of each inner address.
        total: connections of all circuits of both IP versions.
    """

    per_circuit: int
    per_second: int
    total: int


def within_kernel_table(limits: ExitLimits, tracked: str | None = None) -> ExitLimits:
    """Return the limits with a total of at most 3/4 of the kernel's connection table.

    The rest is reserved for the host itself. ``tracked`` is the size of the table; if it is None,
    the kernel's value is read. If the kernel has not loaded connection tracking yet, there is no
    such value, and the limits are returned unchanged.
    """
    most = tracked or read_setting(_KERNEL_TABLE)
    if most is None or not most.isdecimal() or not int(most):
        return limits
    room = int(most) * 3 // 4
    return ExitLimits(
        limits.per_circuit, limits.per_second, min(limits.total, room) if limits.total else room
    )


def limit_rules(pool: IpNetwork, limits: ExitLimits, versions: int) -> Iterator[Rule]:
    """Yield the limits as rules for one pool of an exit that serves ``versions`` IP versions.

    One circuit gets at most 1/8 of the pool's share, but at least 64 connections.
    """
    host = pool.max_prefixlen
    share = max(limits.total // versions, 1)
    per_circuit = limits.per_circuit
    if limits.total:
        per_circuit = min(per_circuit, max(share // _LEAST_CIRCUITS, _LEAST_CONNECTIONS))
    if limits.per_second:
        rate = RateLimit(host, limits.per_second, _BURST_S * limits.per_second)
        yield _refusal(pool, rate)
    if per_circuit:
        yield _refusal(pool, ConnectionLimit(host, per_circuit))
    if limits.total:
        parts = _parts(share, per_circuit, host - pool.prefixlen)
        length = pool.prefixlen + parts.bit_length() - 1
        yield _refusal(pool, ConnectionLimit(length, share // parts))


def refused_destinations(pool: IpNetwork, refused: Iterable[IpNetwork]) -> Iterator[Rule]:
    """Yield rules that drop packets to networks which no circuit reaches under any exit policy."""
    for network in refused:
        if network.version == pool.version:
            yield Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, destination=network)


def _parts(share: int, per_circuit: int, host_bits: int) -> int:
    """Return the number of equal parts of the pool, which is a power of two."""
    wanted = share // (_LEAST_SHARE * per_circuit) if per_circuit else 1
    most = max(min(wanted, _MOST_PARTS, 1 << host_bits), 1)
    return 1 << (most.bit_length() - 1)


def _refusal(pool: IpNetwork, over: ConnectionLimit | RateLimit) -> Rule:
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, over=over)
