"""What theory says of the lengths of sessions and absences, and which models have any."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from sims.churn import SessionModel, parse_model
from sims.churn.lifetimes import Lifetimes, Pareto, Weibull
from sims.theory import records

__all__ = ["ClosedForms", "closed_forms", "leaving_model"]

OfAge = Callable[[float], float]


class ClosedForms(NamedTuple):
    """A distribution of lengths, from theory's own code; in seconds.

    ``survival`` and ``residual`` give the share that lasts longer than an age: of new
    sessions, and of those met under way.
    """

    mean: float
    deviation: float
    median: float
    survival: OfAge
    residual: OfAge


def closed_forms(lifetimes: Lifetimes) -> ClosedForms:
    """Return what theory knows of a distribution.

    Raises:
        ValueError: it knows nothing of it, as of observed lengths.
    """
    if isinstance(lifetimes, Weibull):
        scale, shape = lifetimes.scale_s, lifetimes.shape
        return ClosedForms(
            records.weibull_mean(scale, shape),
            records.weibull_deviation(scale, shape),
            records.weibull_median(scale, shape),
            lambda age: records.weibull_survival(age, scale, shape),
            lambda age: records.weibull_residual_survival(age, scale, shape),
        )
    if isinstance(lifetimes, Pareto):
        scale, shape = lifetimes.scale_s, lifetimes.shape
        return ClosedForms(
            scale / (shape - 1),
            records.pareto_deviation(scale, shape),
            scale * (math.pow(2, 1 / shape) - 1),
            lambda age: math.pow(1 + age / scale, -shape),
            lambda age: math.pow(1 + age / scale, 1 - shape),
        )
    raise ValueError("the model must be made of Weibull, exponential or Pareto distributions")


def leaving_model(text: str) -> SessionModel:
    """Return a session model under which nodes leave.

    Raises:
        ConfigurationError: there is no such model.
        ValueError: nobody ever leaves under it.
    """
    model = parse_model(text)
    if model.permanent_share == 1:
        raise ValueError(f"nobody ever leaves under {text!r}; take a model with sessions")
    return model
