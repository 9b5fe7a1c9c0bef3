"""Simulations that run the control plane of the product on a simulated network.

``sims.churn_simulation`` is the whole of it from Python (:mod:`sims.api`); it is imported
when it is named, so that a part of the simulator does not load the rest.
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
