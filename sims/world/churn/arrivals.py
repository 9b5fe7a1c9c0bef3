"""Declare how a simulation starts, and which events affect many nodes at once.

A *start* determines which nodes are on line at time zero. A *shock* is a later event that affects
many nodes. A simulation has one start and any number of shocks.

Reasons: docs/decisions/0021.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Equilibrium", "FlashCrowd", "MassFailure", "MassJoin", "Shock", "Start"]


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """Start in equilibrium: a node is on line with its availability, in the middle of a session.

    If nodes never return, every node is on line. This is the default, because a start with new
    sessions shows the transient of the start for a long time.
    """


@dataclass(frozen=True, slots=True)
class MassJoin:
    """Start with all nodes off line; from ``at_s`` on all join within ``over_s`` seconds."""

    at_s: float = 0.0
    over_s: float = 60.0

    def __post_init__(self) -> None:
        _at_and_over(self.at_s, self.over_s)


@dataclass(frozen=True, slots=True)
class MassFailure:
    """At ``at_s`` a random fraction ``share`` of the nodes on line fails for good.

    Neither these nodes nor new ones replace them.
    """

    at_s: float
    share: float

    def __post_init__(self) -> None:
        _at_and_over(self.at_s, 0.0)
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of a mass failure lies in (0, 1], not {self.share!r}")


@dataclass(frozen=True, slots=True)
class FlashCrowd:
    """At ``at_s`` further ``nodes`` begin to join within ``over_s``, for one session each."""

    at_s: float
    nodes: int
    over_s: float = 60.0

    def __post_init__(self) -> None:
        _at_and_over(self.at_s, self.over_s)
        if self.nodes < 1:
            raise ValueError(f"a flash crowd has at least one node, not {self.nodes!r}")


Start = Equilibrium | MassJoin
Shock = MassFailure | FlashCrowd


def _at_and_over(at_s: float, over_s: float) -> None:
    if not (0 <= at_s < float("inf")):
        raise ValueError(f"a time from the start of the simulation is >= 0 s, not {at_s!r}")
    if not (0 <= over_s < float("inf")):
        raise ValueError(f"the length of a join is >= 0 s, not {over_s!r}")
