"""The results of one run of the script, real or simulated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

__all__ = ["Measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of one run, over the time after its warm-up.

    Attributes:
        probes, probes_found: record lookups, and those that found the record.
        paths, paths_opened: requested paths, and those that their first circuit served.
        lookups, lookups_succeeded: the relays' own lookups, and those that ended in time.
        datagrams_per_s, bytes_per_s: DHT datagrams and bytes that each relay sent per second on
            line, one value for each relay.
        lag_s: delay of the script's actions in seconds, as the 95 % quantile. A busy host has
            large delays. It is 0 in a simulation.
    """

    probes: int
    probes_found: int
    paths: int
    paths_opened: int
    lookups: int
    lookups_succeeded: int
    datagrams_per_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    lag_s: float = 0.0

    def statistics(self) -> dict[str, float]:
        """Return the figures that are compared."""
        return {
            "lookup success": self.probes_found / max(1, self.probes),
            "path success at first try": self.paths_opened / max(1, self.paths),
            # A lookup that began before the end of the warm-up may end after it.
            "own lookups closed in time": min(1.0, self.lookups_succeeded / max(1, self.lookups)),
            "datagrams per node and second": fmean(self.datagrams_per_s),
            "bytes per node and second": fmean(self.bytes_per_s),
        }

    def plain(self) -> dict[str, object]:
        """Return the counts for JSON."""
        return asdict(self)
