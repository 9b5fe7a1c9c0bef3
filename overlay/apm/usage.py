"""When circuits of other nodes were last used, from the counters of their forward SAs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecBackend, SaIdentity

__all__ = ["CircuitUsage"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Packet counts of the SAs at the last query, and when these counts were seen first."""

    packets: Mapping[SaIdentity, int]
    since: float


class CircuitUsage:
    """Packet counts of earlier queries, for each circuit until :meth:`forget`.

    A backend may not know when an SA was last used. Linux reports it since version 6.2 only, and by
    a clock that can be set. Then a circuit counts as used if it has more packets than at the last
    query. So it may stay longer by one interval between queries.
    """

    def __init__(self, backend: IpsecBackend) -> None:
        self._backend = backend
        self._seen: dict[int, _Seen] = {}

    def last_used(self, number: int, forward: Iterable[SaIdentity], now: float) -> float | None:
        """Return when the source last sent through a circuit, None if it never did.

        Args:
            number: number of the circuit.
            forward: SAs on which the source may send now.
            now: Unix seconds; also the result if the backend cannot be queried.
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
        """Forget a circuit that ends."""
        self._seen.pop(number, None)
