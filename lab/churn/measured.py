"""What one play of the script yields, real or simulated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

__all__ = ["Measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of one run, over the time after its warm-up.

    Attributes:
        probes, probes_found: record lookups, and those that found the record.
        paths, paths_opened: paths asked for, and those that their first circuit served.
        lookups, lookups_succeeded: the relays' own lookups, and those that closed in time.
        datagrams_per_s, bytes_per_s: DHT datagrams and bytes that each relay sent in a second
            that it was on-line, one value a relay.
        lag_s: how late the play's actions came, all but the slowest twentieth of them: what a
            host that is too busy shows first. 0 in a simulation.
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
            # One that began before the warm-up ended may close after it.
            "own lookups closed in time": min(1.0, self.lookups_succeeded / max(1, self.lookups)),
            "datagrams per node and second": fmean(self.datagrams_per_s),
            "bytes per node and second": fmean(self.bytes_per_s),
        }

    def plain(self) -> dict[str, object]:
        """Return the counts for JSON."""
        return asdict(self)
