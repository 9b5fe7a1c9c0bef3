"""Draw the durations of calls: round trips, fetching a cookie, and timeouts.

A node answers only requests with a cookie of its current epoch. So a call to a node that was not
called recently takes two round trips. A call to a departed node stays in flight until the timeout
of its first attempt (``overlay/dht/round_trips.py``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.round_trips import DEVIATIONS
from overlay.dht.settings import DhtSettings
from sims.scenario.sections import LatencySection

__all__ = ["CallTiming"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MEASURED_ONCE: Final = 1 + DEVIATIONS / 2
"""Timeout after one measurement r, as a multiple of r: its deviation counts as r/2 (RFC 6298)."""


class CallTiming:
    """Draw the durations of calls.

    Args:
        latency: latency model of the scenario; constant or uniform.
        settings: has the bounds of timeouts.
        calls_per_s: rates at which a node calls one of its contacts, and one other node.
        measured_s: time in seconds for which a node has measured the round trips that it stores.
        not_called: fractions of departed contacts and of other departed nodes that a node has not
            called since they left. It has deleted the round trips of the others.
        rng: source of randomness.
    """

    def __init__(
        self,
        latency: LatencySection,
        settings: DhtSettings,
        calls_per_s: tuple[float, float],
        measured_s: float,
        not_called: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self._low_s = latency.low_s
        self._high_s = latency.high_s if latency.model == "uniform" else latency.low_s
        self._rng = rng
        self._cookie = tuple(_still_there(rate, COOKIE_ROTATION_S) for rate in calls_per_s)
        round_trip_s = self._low_s + self._high_s
        known_s = min(
            max(_MEASURED_ONCE * round_trip_s, settings.rpc_timeout_min_s),
            settings.rpc_timeout_max_s,
        )
        self._patience_s = known_s, settings.rpc_timeout_s
        self._measured = tuple(
            -float(np.expm1(-rate * measured_s)) * share
            for rate, share in zip(calls_per_s, not_called, strict=True)
        )

    @property
    def cookies(self) -> tuple[float, float]:
        """Probability that a valid cookie is known, for a contact and for another node."""
        return self._cookie[0], self._cookie[1]

    def round_trips(self, count: int) -> Floats:
        """Draw round trips of calls with a known cookie, in seconds."""
        low, high, draw = self._low_s, self._high_s, self._rng.uniform
        return draw(low, high, count) + draw(low, high, count)

    def answered(self, first_hand: Flags) -> Floats:
        """Draw the durations of answered calls to own contacts or to others, in seconds."""
        challenged = self._rng.random(len(first_hand)) >= np.where(first_hand, *self._cookie)
        again = self.round_trips(len(first_hand))
        return self.round_trips(len(first_hand)) + np.where(challenged, again, 0.0)

    def silence(self, first_hand: Flags) -> Floats:
        """Draw how long an unanswered call stays in flight, in seconds."""
        measured = self._rng.random(len(first_hand)) < np.where(first_hand, *self._measured)
        return np.where(measured, *self._patience_s)


def _still_there(calls_per_s: float, lasts_s: float) -> float:
    """Return the probability that the current cookie is younger than ``lasts_s``.

    The first call after a cookie has expired fetches the next one.
    """
    return calls_per_s * lasts_s / (1 + calls_per_s * lasts_s)
