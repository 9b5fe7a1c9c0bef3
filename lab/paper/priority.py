"""Real-time priority for a kernel that is measured."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

__all__ = ["first_in_line"]

_PRIORITY: Final = 1


@contextlib.contextmanager
def first_in_line() -> Iterator[None]:
    """Let nothing else on this host take the processor from what is started within.

    The laboratory's timers are signals of this host: behind other programs they come
    milliseconds late, and that is what one would measure. Where real time is not permitted a
    quiet host must do.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    except PermissionError:
        print("no real-time priority (run as root); keep this host quiet.", file=sys.stderr)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
