"""How many connections a circuit may have at an exit, and all circuits together.

Connection tracking and ports belong to the host, not to a circuit. Without limits one circuit
takes every port of the exit towards a server (28,000 by default), or fills the kernel's table,
after which the host itself and every other circuit lose their connections.

::

    first packet of a connection ──> circuit begins connections too fast?            drop
                                 ──> circuit has as many as it may?                  drop
                                 ──> its part of the pool has as many as it may?     drop

Inner addresses are drawn at random, so the parts of a pool share the total evenly. One counter for
all would be simpler, but the kernel walks through its list of connections for each new one
(Linux, nf_conncount), which takes milliseconds for 100,000.
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
"""A circuit may begin as many connections at once as it may within this time."""

_LEAST_SHARE: Final = 2
"""A part of the pool has room for so many circuits that use all that they may."""

_LEAST_CIRCUITS: Final = 8
"""So many circuits at their limit fit into the total, however small the kernel's table is."""

_LEAST_CONNECTIONS: Final = 64
"""A small total lowers the limit of a circuit no further: a web page needs about so many."""

_MOST_PARTS: Final = 64
_KERNEL_TABLE: Final = "net/netfilter/nf_conntrack_max"


@dataclass(frozen=True, slots=True)
class ExitLimits:
    """Limits of an exit; 0 stands for none.

    ``per_circuit`` connections at a time and ``per_second`` new ones for each inner address;
    ``total`` connections of all circuits of both IP versions.
    """

    per_circuit: int
    per_second: int
    total: int


def within_kernel_table(limits: ExitLimits, tracked: str | None = None) -> ExitLimits:
    """Return the limits with a total of at most three quarters of the kernel's table.

    The rest belongs to the host. ``tracked`` is the kernel's maximum, which is read if it is None;
    a kernel that does not tell has not loaded connection tracking yet and gets the default.
    """
    most = tracked or read_setting(_KERNEL_TABLE)
    if most is None or not most.isdecimal() or not int(most):
        return limits
    room = int(most) * 3 // 4
    return ExitLimits(
        limits.per_circuit, limits.per_second, min(limits.total, room) if limits.total else room
    )


def limit_rules(pool: IpNetwork, limits: ExitLimits, versions: int) -> Iterator[Rule]:
    """Yield the rules for one pool of an exit that serves so many IP versions.

    A circuit gets at most an eighth of what all circuits of the pool have together.
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
    """Yield the rules for destinations that no circuit reaches, whatever the policy says."""
    for network in refused:
        if network.version == pool.version:
            yield Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, destination=network)


def _parts(share: int, per_circuit: int, host_bits: int) -> int:
    """Return into how many parts of equal size, a power of two, the pool is divided."""
    wanted = share // (_LEAST_SHARE * per_circuit) if per_circuit else 1
    most = max(min(wanted, _MOST_PARTS, 1 << host_bits), 1)
    return 1 << (most.bit_length() - 1)


def _refusal(pool: IpNetwork, over: ConnectionLimit | RateLimit) -> Rule:
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, over=over)
