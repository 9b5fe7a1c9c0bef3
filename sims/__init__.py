"""Simulations that run the control plane of the product on a simulated network.

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
