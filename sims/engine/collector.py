"""The cycle collector, asked for patience: a simulation makes few cycles and very many objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["freeze", "patient_collector"]

_YOUNG_OBJECTS: Final = 200_000
"""Between two passes: most objects here die by reference count."""

_HAS_GENERATIONS: Final = hasattr(gc, "freeze")
"""PyPy has another collector, and nothing to set."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Look for cycles seldom; what it was like before, and what was frozen, is set right after."""
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
    """Search no more for cycles in what is there now, as it will mostly stay."""
    if _HAS_GENERATIONS:
        gc.freeze()
