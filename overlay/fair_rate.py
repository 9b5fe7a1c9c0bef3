"""A rate that many sources share: a continuous budget, fair by prefix at every moment.

::

    level(t + dt) = level(t) * exp(-dt / horizon),   0 <= level <= rate * horizon

What was taken is forgotten exponentially, in all and for each group alike. So there is no slot
whose beginning a burst can wait for: any window of ``w`` seconds admits ``rate * (horizon + w)`` at
most. The fractions of :mod:`overlay.shares` hold at every moment, so that a group that
takes all it gets leaves room for the next newcomer.
"""

from __future__ import annotations

import math
from typing import Final

from overlay.shares import Groups, GroupUsage

__all__ = ["FairRate"]

_LONGEST_HORIZONS: Final = 16.0
"""A longer silence counts as so long a one: less than a millionth is left then."""

_RESCALE_ABOVE: Final = math.exp(2.0)
"""The ledger is rescaled every two horizons under load, and forgets groups that hold little."""


class FairRate:
    """What sources may take of a rate; the unit of an amount is its owner's.

    Holds the groups of what it admitted in the last few horizons: after ``h`` horizons a group
    is forgotten as soon as it holds less than ``least``.
    """

    def __init__(self, rate_per_s: float, horizon_s: float, least: float = 0.0) -> None:
        """Prepare.

        Args:
            rate_per_s: amount in each second, in the long run; ``math.inf`` for no bound.
            horizon_s: seconds for which the rate may be taken at once, above 0.
            least: a group that holds less than this is forgotten.
        """
        self._capacity = rate_per_s * horizon_s
        self._horizon_s = horizon_s
        self._least = least
        self._ledger = GroupUsage(self._capacity)
        # Instead of every entry, the unit shrinks: so a step takes constant time.
        self._unit = 1.0
        self._now: float | None = None

    def __len__(self) -> int:
        return len(self._ledger)

    def admits(self, groups: Groups, now: float, amount: float = 1.0) -> bool:
        """Tell whether the source of an amount has room for it now."""
        self._advance(now)
        return self._ledger.admits(groups, amount * self._unit)

    def take(self, groups: Groups, now: float, amount: float = 1.0) -> bool:
        """Take an amount if there is room for it; tell whether there was."""
        if not self.admits(groups, now, amount):
            return False
        self._ledger.take(groups, amount * self._unit)
        return True

    def _advance(self, now: float) -> None:
        """Forget what time has passed over; a clock that was set back stands still for a moment."""
        if now == self._now:
            return
        passed = 0.0 if self._now is None else (now - self._now) / self._horizon_s
        self._now = now
        self._unit *= math.exp(min(max(passed, 0.0), _LONGEST_HORIZONS))
        if self._unit > _RESCALE_ABOVE:
            self._ledger.rescale(1 / self._unit, self._least)
            self._unit = 1.0
        self._ledger.resize(self._capacity * self._unit)
