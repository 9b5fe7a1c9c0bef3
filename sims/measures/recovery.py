"""How long the overlay needs to recover from a shock, by the success of lookups."""

from __future__ import annotations

from typing import Final

from sims.measures.recorder import Recorder

__all__ = ["RecoveryMeasure"]

_TOLERANCE: Final = 0.02
_FEWEST: Final = 10
"""Lookups without which an interval says nothing."""


class RecoveryMeasure:
    """Compares lookups after a shock with those before it, from sample to sample.

    Recovered is the overlay at the end of the first interval after the healing in which
    lookups succeed as often as before the shock, within 2 points; the resolution is the
    sample interval. Where none succeeds, before or after, there is nothing to recover to, or
    nothing that did. One that does not recover before the run ends counts with that time, so
    that it cannot pass for one that was not asked; ``recovered`` tells it from one that did.
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
        """A lookup ended."""
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
        """The run is over."""
        lasted = self._recorder.world.time_s - self._healed_at_s
        if lasted <= 0:
            return
        self._recorder.add("recovered", float(self._recovered))
        if not self._recovered:
            self._recorder.add("recovery_s", lasted)
