"""The processor time that checks of the kernel may take: a tenth, with room for a burst.

::

    credit   0.5 s ─┐ check            ┌── grows by 0.1 s a second
                    └────┐ check     ┌─┘
    0 ───────────────────┴───────────┴──── below zero: the next check waits until it is zero
"""

from __future__ import annotations

from typing import Final

__all__ = ["CheckBudget"]

_SHARE: Final = 0.1
"""Share of one processor that checks may take, if another program changes the host in a loop."""

_BURST_S: Final = 0.5
"""Seconds of checks that may follow each other at once. A change of the host, the node's answer to
it and a path that opens meanwhile need three or four checks of at most 0.1 s."""


class CheckBudget:
    """A token bucket of check time; a full bucket at the start."""

    def __init__(self) -> None:
        self._credit_s = _BURST_S
        self._counted_at: float | None = None

    def pause_after(self, cost_s: float, now: float) -> float:
        """Return the pause that must follow a check.

        Args:
            cost_s: how long the check took.
            now: seconds on a monotonic clock, after the check.
        """
        earned = 0.0 if self._counted_at is None else _SHARE * (now - self._counted_at)
        self._credit_s = min(_BURST_S, self._credit_s + earned) - cost_s
        self._counted_at = now
        return max(0.0, -self._credit_s) / _SHARE
