"""Simulations that run the cores of a node on a simulated network.

::

    acceptance    experiments, and the theory that they are compared with
    studies       runs of a study on many cores, their results, their reports
    vectorised    arithmetic of overlays that are too large for a world
    world         the engine, and simulated machines that run the product's cores
    scenario, observations, metrics, special    what the four share

A package imports only packages below it.

``sims.churn_simulation`` is the Python interface (:mod:`sims.api`). It is imported at its first
use, so that an import of one module does not load the whole simulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sims.api import churn_simulation

__all__ = ["churn_simulation"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from sims import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
