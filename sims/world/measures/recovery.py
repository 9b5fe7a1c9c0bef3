"""Measure how long the overlay needs to recover from a shock, by the success of lookups."""

from __future__ import annotations

from typing import Final

from sims.world.participants.recorder import Recorder

__all__ = ["RecoveryMeasure"]

_TOLERANCE: Final = 0.02
_FEWEST: Final = 10
"""Least number of lookups for which an interval is judged."""


class RecoveryMeasure:
    """Compare lookups after a shock with those before it, interval by interval.

    The overlay has recovered at the end of the first interval in which lookups succeed as often
    as before the shock, within 2 percentage points. Intervals count from the end of the shock,
    and their length is the resolution. If no lookup succeeded before the shock, there is no
    recovery. If the overlay does not recover, the end of the run counts as its time, and
    ``recovered`` is 0.
    """

    def __init__(self, recorder: Recorder, shock_at_s: float, healed_at_s: float) -> None:
        self._recorder = recorder
        self._shock_at_s = shock_at_s
        self._healed_at_s = healed_at_s
        self._before = [0, 0]
        self._interval = [0, 0]
        self._interval_began_s = recorder.world.time_s
        self._recovered = False

    def finished(self, success: bool) -> None:
        """Count a completed lookup."""
        now = self._recorder.world.time_s
        for tally in [self._interval] + ([self._before] if now < self._shock_at_s else []):
            tally[0] += success
            tally[1] += 1

    def sample(self) -> None:
        """Judge the interval that ends now."""
        now = self._recorder.world.time_s
        began, self._interval_began_s = self._interval_began_s, now
        good, count = self._interval
        if count < _FEWEST and now - began < 60 * _FEWEST:
            self._interval_began_s = began
            return
        self._interval = [0, 0]
        if self._recovered or began < self._healed_at_s or not self._before[0] or not good:
            return
        if good / count >= self._before[0] / self._before[1] - _TOLERANCE:
            self._recovered = True
            self._recorder.add("recovery_s", now - self._healed_at_s)

    def end(self) -> None:
        """Record the result at the end of the run."""
        lasted = self._recorder.world.time_s - self._healed_at_s
        if lasted <= 0:
            return
        self._recorder.add("recovered", float(self._recovered))
        if not self._recovered:
            self._recorder.add("recovery_s", lasted)
