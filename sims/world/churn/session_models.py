"""Session models: how long nodes are on line and off line, and whether they return.

The presets are published measurements and the defaults of other simulators, so that results can
be compared. Each names the source of its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sims.world.churn.lifetimes import Exponential, Lifetimes, Weibull

__all__ = ["PRESETS", "SessionModel"]

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class SessionModel:
    """How nodes alternate between on line and off line.

    Attributes:
        name: the text that the user writes.
        on: lengths of sessions.
        off: lengths of absences, after which the same node returns. None if nodes never return
            and a node with a new identity replaces each departed one at once.
        permanent_share: fraction of the nodes on line that never leave.
        origin: source of the numbers.
    """

    name: str
    on: Lifetimes
    off: Lifetimes | None
    permanent_share: float = 0.0
    origin: str = "given by the user"

    def __post_init__(self) -> None:
        if not 0 <= self.permanent_share <= 1:
            raise ValueError("permanent_share must lie in [0, 1]")

    def availability(self) -> float:
        """Return the fraction of time that a node is on line: E[on] / (E[on] + E[off])."""
        if self.off is None:
            return 1.0
        mean = self.on.mean()
        moving = mean / (mean + self.off.mean())
        return self.permanent_share + (1 - self.permanent_share) * moving

    def residual_survival(self, age: float) -> float:
        """Return the fraction of nodes on line that stay on line for ``age`` seconds."""
        moving = self.on.residual_survival(age)
        return self.permanent_share + (1 - self.permanent_share) * moving


def _relay_mix() -> SessionModel:
    """Return a model in which 30 % of the relays are permanent and 1 % of all leave per hour.

    In equilibrium a session ends with the rate 1 / E[S], so 0.7 / E[S] = 0.01 per hour.
    """
    permanent, rate_per_hour = 0.3, 0.01
    on = Weibull.with_mean((1 - permanent) / rate_per_hour * _HOUR, 0.6)
    origin = "29 % of relays in every hourly consensus of a month (Winter 2015); 1 % leave an hour"
    return SessionModel("relay-mix", on, None, permanent, origin)


_KAD: Final = "Steiner, En-Najjary and Biersack, RR-07-205, as PeerfactSim quotes it"
_KAD_OFF: Final = Weibull(413.6765 * _MINUTE, 0.47648)

_ALL: Final = (
    SessionModel("kad2007", Weibull(169.5385 * _MINUTE, 0.61511), _KAD_OFF, origin=_KAD),
    SessionModel("kad2007-stable", Weibull(357.7152 * _MINUTE, 0.54512), _KAD_OFF, origin=_KAD),
    SessionModel(
        "ipfs2022",
        Weibull(219.3 * _MINUTE, 0.608),
        None,
        origin="fitted to median 2 h and 80 % within 8 h, IPFS servers, April 2022",
    ),
    _relay_mix(),
    SessionModel(
        "oversim", Exponential(10_000.0), Exponential(10_000.0), origin="OverSim's default"
    ),
    SessionModel(
        "oversim-verify",
        Exponential(1_000.0),
        Exponential(1_000.0),
        origin="OverSim's regression configuration",
    ),
    SessionModel(
        "p2psim", Exponential(_HOUR), Exponential(_HOUR), origin="the set-up of Li et al. 2005"
    ),
    SessionModel(
        "bamboo",
        Exponential(1.4 * _MINUTE / math.log(2)),
        None,
        origin="median session of 1.4 min, Rhea et al. 2004; Poisson departures",
    ),
    SessionModel("none", Exponential(_HOUR), None, 1.0, "no node ever leaves"),
)

PRESETS: Final[Mapping[str, SessionModel]] = MappingProxyType({one.name: one for one in _ALL})
"""The presets by name."""
