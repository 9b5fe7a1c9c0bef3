"""Values that a run returns, and its progress. Engines create them, the other modules read them.

An *observation* is one measured value with its simulated time. A run keeps observations in
columns, because a day of ten thousand nodes has millions of them, and one tuple each would
need more memory than the nodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["Observation", "Observations", "Progress", "RunOutcome", "ShouldStop", "ShowProgress"]


class Observation(NamedTuple):
    """One measured value.

    Attributes:
        time_s: simulated seconds since the start of the run, the warm-up included. What lies
            before the scenario's ``warm_up_s`` is kept but counts in no statistic.
        metric: a name of :data:`sims.metrics.METRICS`.
        label: a part that is reported separately (``"bucket-7"``, ``"before"``), or empty.
        value: in the metric's unit; 1.0 and 0.0 stand for yes and no.
    """

    time_s: float
    metric: str
    label: str
    value: float


class Observations:
    """Observations in the order in which they were made, with 24 bytes each.

    Only the run adds to it. It can be pickled, so that a worker can send it to its parent.
    """

    __slots__ = ("_keys", "_names", "_times_s", "_values", "_which")

    def __init__(self) -> None:
        self._names: list[tuple[str, str]] = []
        self._keys: dict[tuple[str, str], int] = {}
        self._which = array("I")
        self._times_s = array("d")
        self._values = array("d")

    def add(self, time_s: float, metric: str, value: float, label: str = "") -> None:
        """Record one value; :class:`Observation` explains the arguments."""
        key = (metric, label)
        which = self._keys.get(key)
        if which is None:
            which = self._keys[key] = len(self._names)
            self._names.append(key)
        self._which.append(which)
        self._times_s.append(time_s)
        self._values.append(value)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Observation]:
        for which, time_s, value in zip(self._which, self._times_s, self._values, strict=True):
            metric, label = self._names[which]
            yield Observation(time_s, metric, label, value)

    def columns(self) -> Iterator[tuple[tuple[str, str], Floats, Floats]]:
        """Yield (metric, label), times and values of each metric, sorted by name.

        Raises:
            ImportError: NumPy is missing.
        """
        import numpy as np

        which = np.frombuffer(self._which, dtype=np.uint32)
        times_s, values = (
            np.frombuffer(c, dtype=np.float64) for c in (self._times_s, self._values)
        )
        for key in sorted(self._names):
            chosen = which == self._keys[key]
            yield key, times_s[chosen], values[chosen]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observations):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __getstate__(self) -> tuple[list[tuple[str, str]], bytes, bytes, bytes]:
        return (
            self._names,
            self._which.tobytes(),
            self._times_s.tobytes(),
            self._values.tobytes(),
        )

    def __setstate__(self, state: tuple[list[tuple[str, str]], bytes, bytes, bytes]) -> None:
        self._names = state[0]
        self._keys = {key: number for number, key in enumerate(self._names)}
        self._which = array("I", state[1])
        self._times_s = array("d", state[2])
        self._values = array("d", state[3])


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What one run of one scenario with one seed yielded.

    Attributes:
        seed: of this run.
        observations: everything that was measured.
        digest: SHA-256 over the run's events, in hexadecimal; equal seeds give equal digests.
        counters: totals of the whole run, such as ``datagrams``, ``bytes``, ``events``,
            ``lookups`` (whole numbers, no statistic).
        complete: False if ``should_stop`` ended the run early.
        simulated_s: simulated time in seconds, the warm-up included.
        wall_s: wall time of the run in seconds.
        peak_rss_bytes: the largest resident set of the process so far.
    """

    seed: int
    observations: Observations
    digest: str
    counters: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    simulated_s: float = 0.0
    wall_s: float = 0.0
    peak_rss_bytes: int = 0


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        seed: of the run.
        simulated_s: simulated time that has passed, the warm-up included.
        total_s: warm-up and duration.
        datagrams: sent so far.
        online: nodes that are on-line now.
    """

    seed: int
    simulated_s: float
    total_s: float
    datagrams: int
    online: int


ShowProgress = Callable[[Progress], None]
"""Called by a run after every few thousand events, so it must be cheap."""

ShouldStop = Callable[[], bool]
"""Called by a run as often as progress is shown. The result True ends the run early."""
