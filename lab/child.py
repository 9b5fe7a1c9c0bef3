"""Turn a process that was just forked into a program inside a namespace."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from lab.namespaces import enter_network_of

__all__ = ["FAILED", "become_program"]

FAILED: Final = 1
"""The exit status of a program that raised an exception."""

_PR_SET_PDEATHSIG: Final = 1
"""From ``linux/prctl.h``."""


def become_program(
    program: Callable[[], int], *, namespace: int, stdout: int, stderr: int
) -> NoReturn:
    """Run ``program`` in this process, which was just forked, and end with its status.

    The kernel kills the process when its parent ends. An exception is printed to ``stderr``.

    Args:
        program: returns the exit status.
        namespace: process id of the anchor of the network namespace.
        stdout: descriptor that becomes the standard output.
        stderr: descriptor that becomes the standard error.
    """
    status = FAILED
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        enter_network_of(namespace)
        status = program()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
