"""Protect initiations against replay by a strictly growing timestamp per initiator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.errors import Replayed

__all__ = ["MICROSECONDS", "InitiationClock", "TimestampTable"]

MICROSECONDS: Final = 1_000_000


class InitiationClock:
    """The source of timestamps for our initiations, in microseconds of Unix time."""

    def __init__(self, last: int = 0, stamped: Callable[[int], None] = lambda _: None) -> None:
        """Begin above ``last``; ``stamped`` is called with each timestamp before it is used."""
        self._last = last
        self._stamped = stamped

    def stamp(self, now: float) -> int:
        """Return the next timestamp, which is greater than all earlier ones."""
        self._last = max(int(now * MICROSECONDS), self._last + 1)
        self._stamped(self._last)
        return self._last


class TimestampTable:
    """The greatest timestamp of each initiator, by link key, for at most ``max_initiators``.

    If the table is full, the initiator that was heard longest ago is forgotten. Its last initiation
    can then be replayed, but only within the permitted clock skew. Also, the replay opens SAs that
    only that initiator can confirm.
    """

    def __init__(self, max_initiators: int, max_clock_skew_s: float) -> None:
        self._max_initiators = max_initiators
        self._max_skew_us = int(max_clock_skew_s * MICROSECONDS)
        self._greatest: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._greatest)

    def check(self, link_key: bytes, timestamp_us: int, now: float) -> None:
        """Check that an initiation is new, without recording it.

        Raises:
            Replayed: it is not newer than the initiator's last one, or too far from our time.
        """
        if abs(timestamp_us - int(now * MICROSECONDS)) > self._max_skew_us:
            raise Replayed("an initiation is too old, or from the future")
        if timestamp_us <= self._greatest.get(link_key, -1):
            raise Replayed("an initiation is not newer than the one before")

    def record(self, link_key: bytes, timestamp_us: int) -> None:
        """Remember an initiation whose sender is authenticated."""
        self._greatest.pop(link_key, None)
        self._greatest[link_key] = timestamp_us
        if len(self._greatest) > self._max_initiators:
            del self._greatest[next(iter(self._greatest))]
