"""Retired SAs, which still accept packets that are under way, for a limited time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from overlay.apm.timers import Timers
from overlay.ipsec.interface import IpsecBackend, IpsecConfiguration, SecurityAssociation, Spi

__all__ = ["MAX_RETIRED", "RetiredSa", "RetiredSas"]

K = TypeVar("K", bound=Hashable)

MAX_RETIRED: Final = 2
"""Retired SAs of one hop. If a source rekeys faster, packets that arrive very late are dropped."""


@dataclass(frozen=True, slots=True)
class RetiredSa:
    """SAs that are not in use any more, and the SPIs that are released with them."""

    associations: tuple[SecurityAssociation, ...] = ()
    spis: tuple[Spi, ...] = ()

    def __add__(self, other: RetiredSa) -> RetiredSa:
        return RetiredSa(self.associations + other.associations, self.spis + other.spis)


class RetiredSas(Generic[K]):
    """Retired SAs, at most :data:`MAX_RETIRED` generations of each owner."""

    def __init__(self, backend: IpsecBackend, release: Callable[[Spi], None]) -> None:
        """Store ``release``, which is called with each SPI that becomes free."""
        self._backend = backend
        self._release = release
        self._numbers = itertools.count()
        self._held: dict[K, dict[int, RetiredSa]] = {}
        self._timers: Timers[tuple[K, int]] = Timers()

    def add(self, owner: K, retired: RetiredSa, until: float) -> None:
        """Keep SAs until ``until`` (Unix seconds); remove the oldest ones above the limit."""
        held = self._held.setdefault(owner, {})
        number = next(self._numbers)
        held[number] = retired
        self._timers.set((owner, number), until)
        if len(held) > MAX_RETIRED:
            self._remove(owner, next(iter(held)))

    def holds(self, owner: K) -> bool:
        """Tell whether an owner has retired SAs."""
        return owner in self._held

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> list[K]:
        """Remove expired SAs; return their owners."""
        owners = []
        while (due := self._timers.pop_due(now)) is not None:
            self._remove(*due)
            owners.append(due[0])
        return owners

    def take(self, owner: K) -> RetiredSa:
        """Return the SAs of an owner that ends; the caller removes them from the backend."""
        taken = RetiredSa()
        for number, retired in self._held.pop(owner, {}).items():
            self._timers.cancel((owner, number))
            taken += retired
        return taken

    def discard(self, retired: RetiredSa) -> None:
        """Remove SAs at once."""
        self._backend.remove(IpsecConfiguration(retired.associations, ()))
        for spi in retired.spis:
            self._release(spi)

    def _remove(self, owner: K, number: int) -> None:
        held = self._held[owner]
        self.discard(held.pop(number))
        self._timers.cancel((owner, number))
        if not held:
            del self._held[owner]
