"""How a simulation begins, and what shakes it.

One *start* says where each node is at time zero; any number of *shocks* come on top.

Reasons: docs/decisions/0021.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Equilibrium", "FlashCrowd", "MassFailure", "MassJoin", "Shock", "Start"]


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """The overlay has run for ever: on line with the availability, amid its session.

    Where leavers never return, every node is on line. This is the default, as a start with
    new sessions shows the transient of the start and not the overlay.
    """


@dataclass(frozen=True, slots=True)
class MassJoin:
    """Everybody is away until ``at_s``, then all join within ``over_s`` with new sessions."""

    at_s: float = 0.0
    over_s: float = 60.0

    def __post_init__(self) -> None:
        _at_and_over(self.at_s, self.over_s)


@dataclass(frozen=True, slots=True)
class MassFailure:
    """At ``at_s`` a random ``share`` of the nodes on line vanish without a word, for good.

    Nobody takes their places, be it they themselves or newcomers.
    """

    at_s: float
    share: float

    def __post_init__(self) -> None:
        _at_and_over(self.at_s, 0.0)
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of a mass failure lies in (0, 1], not {self.share!r}")


@dataclass(frozen=True, slots=True)
class FlashCrowd:
    """From ``at_s`` on ``nodes`` more nodes join within ``over_s``, for one session each."""

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
