"""Compute the timeout for each endpoint from measured round trips, as TCP does (RFC 6298).

A fixed timeout has two faults. On a fast network, a departed contact delays a lookup by half a
second. Behind a slow line, a contact on line counts as departed. Only requests that were sent once
are measured, because the answer to a repeated one may belong to either copy (Karn's rule).
"""

from __future__ import annotations

from overlay.addresses import Endpoint
from overlay.dht.settings import DhtSettings

__all__ = ["MAX_MEASURED", "RoundTrips"]

MAX_MEASURED = 512
"""Number of remembered endpoints; the least recently measured one is removed first."""

_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
DEVIATIONS = 4
"""The constants of RFC 6298, section 2."""


class RoundTrips:
    """Smoothed round-trip time and deviation of at most ``MAX_MEASURED`` endpoints, in seconds."""

    def __init__(self, settings: DhtSettings) -> None:
        self._initial_s = settings.rpc_timeout_s
        self._least_s = settings.rpc_timeout_min_s
        self._most_s = settings.rpc_timeout_max_s
        self._measured: dict[Endpoint, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._measured)

    def patience(self, endpoint: Endpoint, attempt: int) -> float:
        """Return the timeout of this attempt (0: the first) in seconds.

        Each further attempt waits twice as long (section 5.5), up to ``rpc_timeout_max_s``.
        """
        known = self._measured.get(endpoint)
        first = self._initial_s if known is None else known[0] + DEVIATIONS * known[1]
        return min(max(first, self._least_s) * 2.0**attempt, self._most_s)

    def measured(self, endpoint: Endpoint, round_trip_s: float) -> None:
        """Process one measurement (sections 2.2 and 2.3); a negative one is ignored."""
        if round_trip_s < 0:
            return
        known = self._measured.pop(endpoint, None)
        if known is None:
            self._measured[endpoint] = (round_trip_s, round_trip_s / 2)
        else:
            mean, deviation = known
            deviation += _DEVIATION_GAIN * (abs(mean - round_trip_s) - deviation)
            self._measured[endpoint] = (mean + _GAIN * (round_trip_s - mean), deviation)
        if len(self._measured) > MAX_MEASURED:
            del self._measured[next(iter(self._measured))]

    def lost(self, endpoint: Endpoint) -> None:
        """Forget an endpoint without an answer, because another host may answer there later."""
        self._measured.pop(endpoint, None)
