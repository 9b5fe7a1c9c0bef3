"""Compare each figure of the real run with the simulated runs, with intervals and a verdict.

The real run is a single one. The simulated runs of the same script, with other identities, delays
and choices, show how much single runs vary. So the interval of a difference has two parts. The
first is the variation of one run: the larger one of the values from the real run's own counts and
from the simulated runs. The second is the error of the simulated mean. A figure agrees if zero is
within the 95 % interval of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lab.churn.measured import Measured
from sims.special import student_t_95

__all__ = ["ComparedQuantity", "compare"]

_Z: float = 1.96


@dataclass(frozen=True, slots=True)
class ComparedQuantity:
    """One figure, real and simulated; all intervals are of 95 %.

    Attributes:
        name: name of the figure.
        real, real_half: the real value and half of its interval.
        simulated, simulated_half: mean of the simulated runs and half of its interval.
        half: half of the interval of the difference.
    """

    name: str
    real: float
    real_half: float
    simulated: float
    simulated_half: float
    half: float

    @property
    def difference(self) -> float:
        """The real value minus the simulated one."""
        return self.real - self.simulated

    @property
    def agrees(self) -> bool:
        """Whether the interval of the difference contains zero."""
        return abs(self.difference) <= self.half


def compare(real: Measured, simulated: Sequence[Measured]) -> list[ComparedQuantity]:
    """Return every figure.

    Raises:
        ValueError: there are fewer than two simulated runs, so that their variation is unknown.
    """
    if len(simulated) < 2:
        raise ValueError("a comparison needs at least two simulated runs")
    runs = [one.statistics() for one in simulated]
    errors = _standard_errors(real)
    return [
        _figure(name, value, errors[name], [run[name] for run in runs])
        for name, value in real.statistics().items()
    ]


def _figure(name: str, value: float, error: float, runs: Sequence[float]) -> ComparedQuantity:
    count, scatter = len(runs), stdev(runs)
    t = student_t_95(count - 1)
    return ComparedQuantity(
        name=name,
        real=value,
        real_half=_Z * error,
        simulated=fmean(runs),
        simulated_half=t * scatter / math.sqrt(count),
        half=t * math.hypot(max(error, scatter), scatter / math.sqrt(count)),
    )


def _standard_errors(real: Measured) -> dict[str, float]:
    proportions = (
        (real.probes_found, real.probes),
        (real.paths_opened, real.paths),
        (real.lookups_succeeded, real.lookups),
    )
    errors = [_of_proportion(*each) for each in proportions]
    errors += [_of_mean(real.datagrams_per_s), _of_mean(real.bytes_per_s)]
    return dict(zip(real.statistics(), errors, strict=True))


def _of_proportion(successes: int, trials: int) -> float:
    """Return the standard error after Agresti and Coull, which is not zero at 0 and 1."""
    share = (min(successes, trials) + 2) / (trials + 4)
    return math.sqrt(share * (1 - share) / (trials + 4))


def _of_mean(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
