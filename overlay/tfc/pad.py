"""The ``pad`` strategy: pad every link packet to the largest size, and send dummies at random.

All packets of a link have the same size (RFC 4303, section 2.7), so sizes contain no information.
If a rate is set, each link also carries dummy packets (section 2.6), whose times form a Poisson
process. Padding hides sizes completely. Dummies only add noise, which a longer observation
averages out (``docs/how-to-break.md`` has the figures).

Because a Poisson process has no memory, the gap that follows a late call is drawn from the
time of that call: the process is the same, and dummies missed during a sleep are not made up
for in a burst that would show the sleep.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Final

from overlay.settings import Settings, number, setting
from overlay.tfc.strategy import LinkHandle

__all__ = ["MAX_DUMMY_RATE_PPS", "PadSettings", "PadTfc"]

MAX_DUMMY_RATE_PPS: Final = 1000.0
"""At more than one per millisecond, the resolution of timers would be visible to an observer.

The dummies of one link would also need more than 12 Mbit/s.
"""

_STALE_ENTRIES: Final = 32
"""The heap may hold as many entries of closed links as of open ones, and this many more."""


@dataclass(frozen=True, slots=True)
class PadSettings(Settings):
    """Settings of the ``pad`` strategy."""

    dummy_rate_pps: float = setting(
        0.0,
        number(0, MAX_DUMMY_RATE_PPS, "packets per second"),
        "Mean rate of dummy packets on each link; 0 means none.",
    )


class PadTfc:
    """Pad to the MTU of the link and send dummies at random (implements ``TfcStrategy``).

    A heap has one deadline for each open link. Entries of closed links are skipped, and they are
    removed before they outnumber the others.
    """

    settings_type: ClassVar[type[PadSettings]] = PadSettings

    def __init__(self, settings: PadSettings, rng: Random) -> None:
        self._rate_pps = settings.dummy_rate_pps
        self._rng = rng
        self._deadlines: dict[LinkHandle, float] = {}
        self._heap: list[tuple[float, LinkHandle]] = []

    @classmethod
    def sends_dummies(cls, settings: PadSettings) -> bool:
        """Tell whether a rate of dummy packets is set."""
        return settings.dummy_rate_pps > 0

    def pad_to(self, link_mtu: int) -> int:
        """Return ``link_mtu``: all packets get the largest size."""
        return link_mtu

    def link_opened(self, link: LinkHandle, now: float) -> None:
        """Start or restart the Poisson process of a link."""
        if self._rate_pps > 0.0:
            self._draw(link, now)

    def link_closed(self, link: LinkHandle) -> None:
        """End the process of a link. An unknown link is ignored."""
        self._deadlines.pop(link, None)
        self._sweep()

    def next_deadline(self) -> float:
        """Return the earliest time at which a dummy is due, or ``math.inf``."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Sequence[LinkHandle]:
        """Return each link that is due, once even if the call is late."""
        links: list[LinkHandle] = []
        while self._heap and self._heap[0][0] <= now:
            deadline, link = heapq.heappop(self._heap)
            if self._deadlines.get(link) == deadline:
                links.append(link)
        for link in links:
            self._draw(link, now)
        self._sweep()
        return links

    def _draw(self, link: LinkHandle, now: float) -> None:
        """Draw the next time of a link, which is after ``now`` even if floats are coarse."""
        deadline = max(now + self._rng.expovariate(self._rate_pps), math.nextafter(now, math.inf))
        self._deadlines[link] = deadline
        heapq.heappush(self._heap, (deadline, link))
        self._sweep()

    def _sweep(self) -> None:
        """Remove entries of closed links from the top, and from the heap if there are many."""
        if len(self._heap) > 2 * len(self._deadlines) + _STALE_ENTRIES:
            self._heap = [(deadline, link) for link, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
