"""The ``uniform`` strategy: each valid path is as likely as any other.

::

    table ──sift──> exits ──┐
          └─sift──> relays ─┴─draw all hops blindly, keep the first valid draw──> path
                                └─ none in DRAWS ──> search them in random order ──> path or none

A draw takes every hop independently of the others and is rejected as a whole if two of them
are one node or share a prefix; what is accepted is therefore uniform over the ordered paths
that are valid. (Drawing hop by hop, each among what the ones before it left, would favour
nodes in crowded prefixes.) Where valid paths are so rare that no draw hits one, the search
finds one if there is one; its choice is random, but no longer exactly uniform.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Final

from overlay.addresses import NodeId
from overlay.dht.descriptor import MixDescriptor
from overlay.errors import NoSuitablePath
from overlay.selection.constraints import (
    Constraint,
    Sifted,
    check_hops,
    common_constraints,
    exit_constraints,
    named_hops,
    no_path,
    relay_constraints,
    sift,
)
from overlay.selection.selector import MixPath, PathRequest, TopologyView

__all__ = ["DRAWS", "UniformSelector", "UniformSettings", "network_prefixes"]

DRAWS: Final = 1_000
"""Some ms. If one path in a hundred is valid, all of them miss in one case of 20,000."""

_SEARCH_SCANS: Final = 3_000_000
"""About a second. Honest tables need a few scans of the table; a table crafted to make the
search exponential ends it instead of stopping the node."""


@dataclass(frozen=True, slots=True)
class UniformSettings:
    """How Mix-nodes are drawn.

    Attributes:
        distinct_prefixes: No two drawn hops share an IPv4 /16 or IPv6 /32, as those are often
            run by one operator. Turn it off only where all nodes live in one network, as in
            a laboratory or a private mesh.
    """

    distinct_prefixes: bool = True


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A hop that might be drawn; two with a mark in common cannot be on one path."""

    descriptor: MixDescriptor
    prefixes: frozenset[bytes]
    marks: frozenset[bytes]
    """The prefixes and the node id."""

    @property
    def kind(self) -> frozenset[bytes]:
        """Candidates of one kind can stand for each other, as far as other hops are concerned."""
        return self.prefixes or self.marks


def network_prefixes(descriptor: MixDescriptor) -> frozenset[bytes]:
    """Return the /16 (IPv4, 2 bytes) and /32 (IPv6, 4 bytes) of all endpoints of a node."""
    return frozenset(e.packed[: 4 if ":" in e.host else 2] for e in descriptor.endpoints)


class UniformSelector:
    """Draw the hops that the request leaves open (implements ``PathSelector``)."""

    settings_type: ClassVar[type[UniformSettings]] = UniformSettings

    def __init__(self, settings: UniformSettings | None = None) -> None:
        self._distinct_prefixes = (settings or UniformSettings()).distinct_prefixes

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:
        """Return the named hops, then relays, then an exit, drawn from all that may be.

        Raises:
            NoSuitablePath: a named hop cannot serve, or the constraints leave no path.
            ValueError: ``hops`` does not lie within 1 and ``MAX_HOPS``.
        """
        check_hops(request)
        if len(request.via) > request.hops:
            raise NoSuitablePath(
                f"the request names {len(request.via)} Mix-nodes for a path of {request.hops}; "
                f"name fewer or ask for more hops.",
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
            (*common_constraints(request), *self._beside(request.via, named)),
        )
        exits = sift(eligible, exit_constraints(request.destination))
        if not exits.remaining:
            raise no_path(request, len(table), exits, "and no exit remains")
        relays = sift(eligible, relay_constraints())
        needed = request.hops - len(named) - 1
        if len(relays.remaining) < needed:
            left = _count(len(relays.remaining), "relay")
            raise no_path(request, len(table), relays, f"and {left} for {needed} hops remain")
        drawn = _draw(self._candidates(exits), self._candidates(relays), needed, rng)
        if drawn is None:
            relays_alone = relays.removed[len(eligible.removed) :]
            sifted = Sifted((), (*exits.removed, *relays_alone))
            raise no_path(request, len(table), sifted, self._no_combination(exits, relays))
        return tuple(candidate.descriptor for candidate in drawn)

    def _beside(
        self, via: Sequence[NodeId], named: Sequence[MixDescriptor]
    ) -> tuple[Constraint, ...]:
        """Return what a drawn hop must fulfil because of the named ones."""
        taken = frozenset[bytes]().union(*map(network_prefixes, named))
        distinct = self._distinct_prefixes
        return (
            Constraint(
                "is named for another hop",
                "are named for other hops",
                lambda d: d.node_id not in via,
            ),
            Constraint(
                "shares a network prefix with a named hop",
                "share a network prefix with a named hop",
                lambda d: not (distinct and taken) or taken.isdisjoint(network_prefixes(d)),
            ),
        )

    def _candidates(self, sifted: Sifted) -> list[_Candidate]:
        candidates = []
        for descriptor in sifted.remaining:
            prefixes = network_prefixes(descriptor) if self._distinct_prefixes else frozenset()
            candidates.append(_Candidate(descriptor, prefixes, prefixes | {descriptor.node_id}))
        return candidates

    def _no_combination(self, exits: Sifted, relays: Sifted) -> str:
        left = (
            f"{_count(len(exits.remaining), 'exit')} and {_count(len(relays.remaining), 'relay')}"
        )
        rest = f"and the {left} that remain give no combination of different nodes"
        if not self._distinct_prefixes:
            return rest
        return (
            f"{rest} in different networks (an IPv4 /16 or IPv6 /32 serves one hop; a laboratory "
            f"sets distinct_prefixes = false under [selection.uniform])"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# -- drawing -------------------------------------------------------------------------------


def _draw(
    exits: list[_Candidate], relays: list[_Candidate], needed: int, rng: Random
) -> list[_Candidate] | None:
    """Return ``needed`` relays and an exit without a common mark, or None if there are none."""
    for _ in range(DRAWS):
        drawn = _blind_draw(exits, relays, needed, rng)
        if drawn is not None:
            return drawn
    return _Search(rng).path(exits, relays, needed)


def _blind_draw(
    exits: Sequence[_Candidate], relays: Sequence[_Candidate], needed: int, rng: Random
) -> list[_Candidate] | None:
    """Draw each hop independently; None if two of them cannot be on one path."""
    last = rng.choice(exits)
    marks = set(last.marks)
    drawn = []
    for _ in range(needed):
        relay = rng.choice(relays)
        if not marks.isdisjoint(relay.marks):
            return None  # as good as drawing the rest and rejecting it all
        marks |= relay.marks
        drawn.append(relay)
    return [*drawn, last]


class _Search:
    """One search in random order, depth first, bounded by ``_SEARCH_SCANS``."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._scans_left = _SEARCH_SCANS

    def path(
        self, exits: Sequence[_Candidate], relays: Sequence[_Candidate], needed: int
    ) -> list[_Candidate] | None:
        """Return relays in random order and an exit behind them."""
        relays = self._rng.sample(relays, len(relays))
        failed: set[frozenset[bytes]] = set()
        for last in self._rng.sample(exits, len(exits)):
            if last.kind in failed:
                continue
            found = self._relays(self._compatible(last, relays), needed)
            if found is not None:
                return [*self._rng.sample(found, needed), last]
            failed.add(last.kind)
        return None

    def _relays(self, relays: list[_Candidate], needed: int) -> list[_Candidate] | None:
        """Return ``needed`` of ``relays`` that can be on one path."""
        if needed == 0:
            return []
        if self._are_hit_by_fewer_marks(relays, needed):
            return None
        failed: set[frozenset[bytes]] = set()
        for index, relay in enumerate(relays):
            if self._scans_left < 0:
                return None
            if relay.kind in failed:
                continue
            # Paths with a relay before this one were searched when that one was tried.
            others = self._compatible(relay, relays[index + 1 :])
            found = self._relays(others, needed - 1)
            if found is not None:
                return [relay, *found]
            failed.add(relay.kind)
        return None

    def _compatible(self, chosen: _Candidate, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        self._scans_left -= len(candidates)
        return [c for c in candidates if c.marks.isdisjoint(chosen.marks)]

    def _are_hit_by_fewer_marks(self, relays: list[_Candidate], needed: int) -> bool:
        """Tell whether fewer than ``needed`` marks are such that each relay has one of them.

        Then ``needed`` relays without a common mark do not exist. Taking the most frequent
        mark each time sees at once, say, that all relays live at one provider.
        """
        rest = relays
        for _ in range(needed - 1):
            if not rest:
                return True
            self._scans_left -= len(rest)
            counts = Counter(mark for relay in rest for mark in relay.marks)
            frequent, _count = counts.most_common(1)[0]
            rest = [relay for relay in rest if frequent not in relay.marks]
        return not rest
