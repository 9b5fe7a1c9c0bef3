"""Make the cycle collector run rarely, because simulations have many objects and few cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["freeze", "patient_collector"]

_YOUNG_OBJECTS: Final = 200_000
"""Allocations between two passes. Reference counting frees most objects here."""

_HAS_GENERATIONS: Final = hasattr(gc, "freeze")
"""PyPy has another collector without these functions."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Run the cycle collector rarely within the context, and restore its settings after it."""
    if not _HAS_GENERATIONS:
        yield
        return
    thresholds = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def freeze() -> None:
    """Exclude all current objects from the cycle collector, because most of them will stay."""
    if _HAS_GENERATIONS:
        gc.freeze()
