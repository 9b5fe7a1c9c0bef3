"""Give real-time priority to a kernel that is measured."""

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
    """Give real-time priority to processes that are started inside.

    The laboratory's timers are signals of this host. Without priority over other programs they
    arrive milliseconds late, and this delay would be measured. If real-time priority is not
    permitted, the host must be idle.
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
