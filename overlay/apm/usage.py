"""When circuits of others were last used, by the counters of their forward SAs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecBackend, SaIdentity

__all__ = ["CircuitUsage"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Packets of each SA as last looked at, and when they were first found to be so many."""

    packets: Mapping[SaIdentity, int]
    since: float


class CircuitUsage:
    """What was seen at earlier looks, for each circuit until :meth:`forget`.

    An engine may not know when an SA was last used: the Linux kernel tells it from version 6.2
    on, and by a clock that can be set. Then a circuit counts as used when it is looked at and
    has more packets than at the look before: it may live longer by one pause between looks.
    """

    def __init__(self, backend: IpsecBackend) -> None:
        self._backend = backend
        self._seen: dict[int, _Seen] = {}

    def last_used(self, number: int, forward: Iterable[SaIdentity], now: float) -> float | None:
        """Return when the source last sent through a circuit, None if it never did.

        Args:
            number: the circuit's.
            forward: the SAs that the source may send on at present.
            now: Unix seconds; also the answer where the engine cannot be asked.
        """
        try:
            asked = {each: self._backend.query(each) for each in forward}
        except BackendError:
            return now
        found = {each: counters for each, counters in asked.items() if counters}
        used = {each: counters for each, counters in found.items() if counters.packets}
        times = [each.last_used for each in used.values() if each.last_used is not None]
        if used and len(times) == len(used):
            return max(times)
        packets = {each: counters.packets for each, counters in used.items()}
        seen = self._seen.get(number)
        if used and (seen is None or seen.packets != packets):
            seen = self._seen[number] = _Seen(packets, now)
        return None if seen is None else seen.since

    def forget(self, number: int) -> None:
        """Drop what is known of a circuit that ends."""
        self._seen.pop(number, None)
