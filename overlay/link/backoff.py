"""When to say it again, and when to give up."""

from __future__ import annotations

from random import Random
from typing import Final

from overlay.link.settings import LinkSettings

__all__ = ["Backoff"]

_JITTER: Final = 0.2
"""Each wait is up to a fifth shorter or longer, so that nodes do not fall into step."""


class Backoff:
    """Waits that double up to a limit: ``next_at``, and ``gives_up_at`` after which to stop."""

    def __init__(self, settings: LinkSettings, rng: Random, now: float) -> None:
        self._rng = rng
        self._delay_s = settings.retry_initial_s
        self._max_s = settings.retry_max_s
        self.gives_up_at = now + settings.handshake_timeout_s
        self.next_at = now

    @property
    def deadline(self) -> float:
        """When something is to be done, one or the other."""
        return min(self.next_at, self.gives_up_at)

    def advance(self, now: float) -> None:
        """Something was said at ``now``: set when to say it again."""
        self.next_at = now + self._delay_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        self._delay_s = min(2 * self._delay_s, self._max_s)
