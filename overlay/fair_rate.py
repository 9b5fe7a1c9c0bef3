"""A rate that many sources share: a continuous budget with shares for each prefix.

::

    level(t + dt) = level(t) * exp(-dt / horizon),   0 <= level <= rate * horizon

Past use decays exponentially, in total and for each group. A budget of time slots would admit
bursts at the beginning of each slot. Here every window of ``w`` seconds admits at most
``rate * (horizon + w)``. The fractions of :mod:`overlay.shares` apply at all times. So a group that
takes its whole share leaves room for a new group.
"""

from __future__ import annotations

import math
from typing import Final

from overlay.shares import Groups, GroupUsage

__all__ = ["FairRate"]

_LONGEST_HORIZONS: Final = 16.0
"""A longer pause counts as this one, because less than a millionth of the use is left then."""

_RESCALE_ABOVE: Final = math.exp(2.0)
"""Under load the ledger is rescaled every two horizons, and small groups are removed."""


class FairRate:
    """Admit amounts of a rate that many sources share; the caller chooses the unit of amounts.

    It stores the groups of recent amounts. A group whose amount has decayed below ``least`` is
    removed at the next rescaling.
    """

    def __init__(self, rate_per_s: float, horizon_s: float, least: float = 0.0) -> None:
        """Prepare.

        Args:
            rate_per_s: mean amount per second; ``math.inf`` for no limit.
            horizon_s: time constant of the decay in seconds, above 0. The amount of this many
                seconds may be taken at once.
            least: a group that holds less than this amount is removed.
        """
        self._capacity = rate_per_s * horizon_s
        self._horizon_s = horizon_s
        self._least = least
        self._ledger = GroupUsage(self._capacity)
        # The unit grows instead of every entry shrinking, so that a step takes constant time.
        self._unit = 1.0
        self._now: float | None = None

    def __len__(self) -> int:
        return len(self._ledger)

    def admits(self, groups: Groups, now: float, amount: float = 1.0) -> bool:
        """Tell whether a source with these groups may take an amount now."""
        self._advance(now)
        return self._ledger.admits(groups, amount * self._unit)

    def take(self, groups: Groups, now: float, amount: float = 1.0) -> bool:
        """Take an amount if there is room for it; return whether there was."""
        if not self.admits(groups, now, amount):
            return False
        self._ledger.take(groups, amount * self._unit)
        return True

    def _advance(self, now: float) -> None:
        """Let past use decay up to ``now``; a step back of the clock counts as no time."""
        if now == self._now:
            return
        passed = 0.0 if self._now is None else (now - self._now) / self._horizon_s
        self._now = now
        self._unit *= math.exp(min(max(passed, 0.0), _LONGEST_HORIZONS))
        if self._unit > _RESCALE_ABOVE:
            self._ledger.rescale(1 / self._unit, self._least)
            self._unit = 1.0
        self._ledger.resize(self._capacity * self._unit)
