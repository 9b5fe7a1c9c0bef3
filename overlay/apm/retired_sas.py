"""SAs that have been replaced and still open what was under way, for a while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from overlay.apm.timers import Timers
from overlay.ipsec.interface import IpsecBackend, IpsecConfiguration, SecurityAssociation, Spi

__all__ = ["MAX_LINGERING", "RetiredSa", "RetiredSas"]

K = TypeVar("K", bound=Hashable)

MAX_LINGERING: Final = 2
"""Generations of one hop's SAs; who replaces keys faster loses what was very late."""


@dataclass(frozen=True, slots=True)
class RetiredSa:
    """SAs that are no circuit's current ones, and the SPIs that go free with them."""

    associations: tuple[SecurityAssociation, ...] = ()
    spis: tuple[Spi, ...] = ()

    def __add__(self, other: RetiredSa) -> RetiredSa:
        return RetiredSa(self.associations + other.associations, self.spis + other.spis)


class RetiredSas(Generic[K]):
    """Sole owner of replaced SAs, at most :data:`MAX_LINGERING` generations of each owner."""

    def __init__(self, backend: IpsecBackend, release: Callable[[Spi], None]) -> None:
        """Prepare; ``release`` takes back an SPI."""
        self._backend = backend
        self._release = release
        self._numbers = itertools.count()
        self._held: dict[K, dict[int, RetiredSa]] = {}
        self._timers: Timers[tuple[K, int]] = Timers()

    def add(self, owner: K, outgrown: RetiredSa, until: float) -> None:
        """Keep SAs until then; the eldest generation goes if these are too many."""
        held = self._held.setdefault(owner, {})
        number = next(self._numbers)
        held[number] = outgrown
        self._timers.set((owner, number), until)
        if len(held) > MAX_LINGERING:
            self._remove(owner, next(iter(held)))

    def holds(self, owner: K) -> bool:
        """Tell whether anything of an owner lingers."""
        return owner in self._held

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> list[K]:
        """Remove what has lingered long enough; return its owners."""
        owners = []
        while (due := self._timers.pop_due(now)) is not None:
            self._remove(*due)
            owners.append(due[0])
        return owners

    def take(self, owner: K) -> RetiredSa:
        """Hand over everything of an owner that ends, still installed."""
        taken = RetiredSa()
        for number, outgrown in self._held.pop(owner, {}).items():
            self._timers.cancel((owner, number))
            taken += outgrown
        return taken

    def discard(self, outgrown: RetiredSa) -> None:
        """Remove SAs at once."""
        self._backend.remove(IpsecConfiguration(outgrown.associations, ()))
        for spi in outgrown.spis:
            self._release(spi)

    def _remove(self, owner: K, number: int) -> None:
        held = self._held[owner]
        self.discard(held.pop(number))
        self._timers.cancel((owner, number))
        if not held:
            del self._held[owner]
