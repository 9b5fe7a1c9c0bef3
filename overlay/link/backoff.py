"""Compute when to repeat a message that was not answered, and when to give up."""

from __future__ import annotations

from random import Random
from typing import Final

from overlay.link.settings import LinkSettings

__all__ = ["Backoff"]

_JITTER: Final = 0.2
"""Each pause is up to a fifth shorter or longer, so that nodes do not send at the same time."""


class Backoff:
    """Exponential backoff with an upper limit.

    Attributes:
        next_at: when to send the message next, in seconds of Unix time.
        gives_up_at: when to stop, in seconds of Unix time.
    """

    def __init__(self, settings: LinkSettings, rng: Random, now: float) -> None:
        self._rng = rng
        self._delay_s = settings.retry_initial_s
        self._max_s = settings.retry_max_s
        self.gives_up_at = now + settings.handshake_timeout_s
        self.next_at = now

    @property
    def deadline(self) -> float:
        """The earlier one of both times."""
        return min(self.next_at, self.gives_up_at)

    def advance(self, now: float) -> None:
        """Record that the message was sent at ``now``, and set ``next_at``."""
        self.next_at = now + self._delay_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        self._delay_s = min(2 * self._delay_s, self._max_s)
