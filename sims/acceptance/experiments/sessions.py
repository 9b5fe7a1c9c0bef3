"""Closed forms for the lengths of sessions and absences, and the models that have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from sims.acceptance.theory import records
from sims.world.churn import SessionModel, parse_model
from sims.world.churn.lifetimes import Lifetimes, Pareto, Weibull

__all__ = ["ClosedForms", "closed_forms", "leaving_model"]

OfAge = Callable[[float], float]


class ClosedForms(NamedTuple):
    """A distribution of lengths in seconds, from ``sims.acceptance.theory``.

    ``survival`` and ``residual`` return the fraction that lasts longer than an age: of new
    sessions, and of running sessions.
    """

    mean: float
    deviation: float
    median: float
    survival: OfAge
    residual: OfAge


def closed_forms(lifetimes: Lifetimes) -> ClosedForms:
    """Return the closed forms of a distribution.

    Raises:
        ValueError: there is none, for example for the lengths of a trace.
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
    """Return a session model in which nodes leave.

    Raises:
        ConfigurationError: there is no such model.
        ValueError: no node ever leaves in this model.
    """
    model = parse_model(text)
    if model.permanent_share == 1:
        raise ValueError(f"no node ever leaves under {text!r}; take a model with sessions")
    return model
