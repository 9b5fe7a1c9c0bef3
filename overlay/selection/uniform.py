"""The ``uniform`` strategy: all valid paths have the same probability.

::

    table ──sift──> exits ──┐
          └─sift──> relays ─┴─draw all hops blindly, keep the first valid draw──> path
                                └─ none in DRAWS ──> search them in random order ──> path or none

A draw takes every hop independently of the others and is rejected as a whole if two of them
are one node or share a prefix; what is accepted is therefore uniform over the ordered paths
that are valid. (Drawing hop by hop, each among what the ones before it left, would favour
nodes in crowded prefixes.) Where valid paths are so rare that no draw hits one, the search
finds one if there is one; its choice is random, but no longer exactly uniform.

Reasons: docs/decisions/0028.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import ClassVar, Final

from overlay.dht.descriptor import MixDescriptor
from overlay.errors import NoSuitablePath
from overlay.plurals import counted
from overlay.selection.constraints import (
    Constraint,
    Sifted,
    check_hops,
    common_constraints,
    exit_constraints,
    first_hop_constraint,
    is_connected,
    named_hops,
    no_path,
    relay_constraints,
    sift,
    versions_of,
)
from overlay.selection.selector import MixPath, PathRequest, TopologyView
from overlay.settings import FLAG, Settings, setting

__all__ = [
    "DRAWS",
    "SEARCH_SCANS",
    "PathSearch",
    "UniformSelector",
    "UniformSettings",
    "network_prefixes",
]

DRAWS: Final = 1_000
"""This takes a few ms. If 1 % of all paths are valid, all draws fail in one of 20,000 cases."""

SEARCH_SCANS: Final = 3_000_000
"""This takes about one second. Ordinary tables need a few scans. An attacker could craft a table
for which the search is exponential, so the search is limited."""


@dataclass(frozen=True, slots=True)
class UniformSettings(Settings):
    """How Mix-nodes are drawn."""

    distinct_prefixes: bool = setting(
        True,
        FLAG,
        "No two drawn hops share an IPv4 /16 or IPv6 /32, because one operator often runs all "
        "nodes in such a prefix. Turn it off only if all nodes are in one network, as in a "
        "laboratory or a private mesh.",
    )


def network_prefixes(descriptor: MixDescriptor) -> frozenset[bytes]:
    """Return the /16 (IPv4, 2 bytes) and /32 (IPv6, 4 bytes) of all endpoints of a node."""
    return frozenset(e.packed[: 4 if ":" in e.host else 2] for e in descriptor.endpoints)


class UniformSelector:
    """Draw all hops that the request does not name (implements ``PathSelector``)."""

    settings_type: ClassVar[type[UniformSettings]] = UniformSettings

    def __init__(self, settings: UniformSettings | None = None) -> None:
        self._distinct_prefixes = (settings or UniformSettings()).distinct_prefixes

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:
        """Return the named hops, then random relays, then a random exit.

        Raises:
            NoSuitablePath: a named node cannot be a hop, or no path meets the constraints.
            ValueError: ``hops`` is not between 1 and ``MAX_HOPS``.
        """
        check_hops(request)
        if len(request.via) > request.hops:
            raise NoSuitablePath(
                f"the request names {len(request.via)} Mix-nodes for a path of "
                f"{counted(request.hops, 'hop')}; name fewer or ask for more hops.",
                known=len(table),
                removed=(),
            )
        named = named_hops(request, table)
        if len(named) == request.hops:
            return MixPath(named)
        return MixPath(named + self._drawn_hops(request, table, named, rng))

    def _drawn_hops(
        self,
        request: PathRequest,
        table: TopologyView,
        named: Sequence[MixDescriptor],
        rng: Random,
    ) -> tuple[MixDescriptor, ...]:
        eligible = sift(
            Sifted(tuple(table)),
            (*common_constraints(request), *self._beside(named)),
        )
        starts = versions_of(named[-1]) if named else request.versions
        needed = request.hops - len(named) - 1
        exits = sift(eligible, exit_constraints(request))
        if not named and not needed:
            exits = sift(exits, (first_hop_constraint(request),))
        if not exits.remaining:
            raise no_path(request, len(table), exits, "no exit remains")
        relays = sift(eligible, relay_constraints(request))
        if len(relays.remaining) < needed:
            left = len(relays.remaining)
            rest = (
                f"{counted(left, 'relay')} for {counted(needed, 'hop')} remain{'s' * (left == 1)}"
            )
            raise no_path(request, len(table), relays, rest)
        if not named and needed:
            first = sift(relays, (first_hop_constraint(request),))
            if not first.remaining:
                raise no_path(request, len(table), first, "no first hop remains")
        drawn = _draw(exits.remaining, relays.remaining, needed, starts, self._marks, rng)
        if drawn is None:
            relays_alone = relays.removed[len(eligible.removed) :]
            sifted = Sifted((), (*exits.removed, *relays_alone))
            raise no_path(request, len(table), sifted, self._no_combination(exits, relays))
        return drawn

    def _beside(self, named: Sequence[MixDescriptor]) -> tuple[Constraint, ...]:
        """Return the constraints on drawn hops that follow from the named hops."""
        keys = frozenset(d.identity_key for d in named)
        taken = frozenset[bytes]().union(*map(self._prefixes, named))
        return (
            Constraint(
                "is named for another hop",
                "are named for other hops",
                lambda d: d.identity_key not in keys,
            ),
            Constraint(
                "shares a network prefix with a named hop",
                "share a network prefix with a named hop",
                lambda d: not taken or taken.isdisjoint(self._prefixes(d)),
            ),
        )

    def _prefixes(self, descriptor: MixDescriptor) -> frozenset[bytes]:
        return network_prefixes(descriptor) if self._distinct_prefixes else frozenset()

    def _marks(self, descriptor: MixDescriptor) -> frozenset[bytes]:
        """Return the marks that no other hop may have: the key of the node, and its prefixes."""
        return self._prefixes(descriptor) | {descriptor.identity_key}

    def _no_combination(self, exits: Sifted, relays: Sifted) -> str:
        left = (
            f"{counted(len(exits.remaining), 'exit')} and {counted(len(relays.remaining), 'relay')}"
        )
        rest = f"the {left} that remain give no combination of different nodes"
        ends = (*exits.remaining, *relays.remaining)
        if len(set(map(versions_of, ends))) > 1:
            rest += " of which neighbours have an IP version in common"
        if not self._distinct_prefixes:
            return rest
        return (
            f"{rest} in different networks (an IPv4 /16 or IPv6 /32 serves one hop; a laboratory "
            f"sets distinct_prefixes = false under [selection.uniform])"
        )


# -- drawing -------------------------------------------------------------------------------

_Marks = Callable[[MixDescriptor], frozenset[bytes]]
"""Two nodes with a common mark cannot be on the same path."""


def _draw(
    exits: Sequence[MixDescriptor],
    relays: Sequence[MixDescriptor],
    needed: int,
    starts: frozenset[int],
    marks: _Marks,
    rng: Random,
) -> tuple[MixDescriptor, ...] | None:
    """Return ``needed`` relays and an exit without common marks, or None if none are found.

    ``starts`` are the IP versions of the hop before them, or of the source.
    """
    for _ in range(DRAWS):
        drawn = _blind_draw(exits, relays, needed, marks, rng)
        if drawn is not None and is_connected(drawn, starts):
            return drawn
    return PathSearch(exits, relays, needed, starts, marks, rng).path()


def _blind_draw(
    exits: Sequence[MixDescriptor],
    relays: Sequence[MixDescriptor],
    needed: int,
    marks: _Marks,
    rng: Random,
) -> tuple[MixDescriptor, ...] | None:
    """Draw each hop independently; return None if two of them cannot be on the same path."""
    last = rng.choice(exits)
    taken = set(marks(last))
    drawn = []
    for _ in range(needed):
        relay = rng.choice(relays)
        found = marks(relay)
        if not taken.isdisjoint(found):
            return None  # equivalent to drawing the other hops and rejecting the path
        taken |= found
        drawn.append(relay)
    return (*drawn, last)


@dataclass(frozen=True, slots=True)
class _Representative:
    """One node that represents all nodes with the same shared marks and the same IP versions.

    Marks that only one node has exclude no path, so they are omitted. Nodes with the same marks
    exclude each other. If a node has no shared mark, ``marks`` holds its own key.
    """

    descriptor: MixDescriptor
    marks: frozenset[bytes]


class PathSearch:
    """A depth-first search in random order.

    ``scans_left`` is the number of candidates that it may still examine, at first
    :data:`SEARCH_SCANS`.
    """

    def __init__(
        self,
        exits: Sequence[MixDescriptor],
        relays: Sequence[MixDescriptor],
        needed: int,
        starts: frozenset[int],
        marks: _Marks,
        rng: Random,
    ) -> None:
        self._rng = rng
        self._needed = needed
        self._starts = starts
        self.scans_left = SEARCH_SCANS
        nodes = {d.identity_key: marks(d) for d in (*exits, *relays)}
        frequency = Counter(mark for found in nodes.values() for mark in found)
        self._shared = {
            key: frozenset(mark for mark in found if frequency[mark] > 1)
            for key, found in nodes.items()
        }
        # Of the nodes without shared marks, as many as there are hops are enough.
        self._exits = self._one_of_each_kind(exits, needed + 1)
        self._relays = self._one_of_each_kind(relays, needed + 1)

    def path(self) -> tuple[MixDescriptor, ...] | None:
        """Return relays in random order, followed by an exit."""
        for last in self._exits:
            relays = self._compatible(last, self._relays)
            found = self._search(relays, self._needed, (last.descriptor,))
            if found is not None:
                return found
        return None

    def _in_order(self, chosen: tuple[MixDescriptor, ...]) -> tuple[MixDescriptor, ...] | None:
        """Return the relays in random order and the exit; adjacent hops share an IP version."""
        last, *relays = chosen
        orders = list(permutations(relays))
        for order in self._rng.sample(orders, len(orders)):
            if is_connected((*order, last), self._starts):
                return (*order, last)
        return None

    def _one_of_each_kind(
        self, nodes: Sequence[MixDescriptor], without_kind: int
    ) -> list[_Representative]:
        seen: Counter[tuple[frozenset[bytes], frozenset[int]]] = Counter()
        kept = []
        for descriptor in self._rng.sample(nodes, len(nodes)):
            key = descriptor.identity_key
            shared, versions = self._shared[key], versions_of(descriptor)
            if seen[shared, versions] < (1 if shared else without_kind):
                seen[shared, versions] += 1
                kept.append(_Representative(descriptor, shared or frozenset({key})))
        return kept

    def _search(
        self, relays: list[_Representative], needed: int, chosen: tuple[MixDescriptor, ...]
    ) -> tuple[MixDescriptor, ...] | None:
        """Return a path of ``chosen``, which begins with the exit, and ``needed`` relays."""
        if needed == 0:
            return self._in_order(chosen)
        if self._are_hit_by_fewer_marks(relays, needed):
            return None
        for index, relay in enumerate(relays):
            if self.scans_left < 0:
                return None
            # Paths with an earlier relay were searched when that relay was tried.
            others = self._compatible(relay, relays[index + 1 :])
            found = self._search(others, needed - 1, (*chosen, relay.descriptor))
            if found is not None:
                return found
        return None

    def _compatible(
        self, chosen: _Representative, candidates: list[_Representative]
    ) -> list[_Representative]:
        self.scans_left -= len(candidates)
        return [c for c in candidates if c.marks.isdisjoint(chosen.marks)]

    def _are_hit_by_fewer_marks(self, relays: list[_Representative], needed: int) -> bool:
        """Tell whether fewer than ``needed`` marks are such that each relay has one of them.

        Then ``needed`` relays without a common mark do not exist. Taking the most frequent
        mark each time sees at once, say, that all relays live at one provider.
        """
        rest = relays
        for _ in range(needed - 1):
            if not rest:
                break
            self.scans_left -= len(rest)
            counts = Counter(mark for relay in rest for mark in relay.marks)
            frequent = counts.most_common(1)[0][0]
            rest = [relay for relay in rest if frequent not in relay.marks]
        return not rest
