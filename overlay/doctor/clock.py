"""Check the clock, because nodes reject signatures that are more than ten minutes off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from overlay.dht.descriptor import CLOCK_SKEW_S
from overlay.doctor.findings import Finding, Outcome, Setup
from overlay.errors import BackendError
from overlay.system.kernel_clock import ClockState, read_kernel_clock

__all__ = ["clock"]

_SUBJECT: Final = "clock"
_REMEDY: Final = "run a time service, for example: apt-get install chrony"


def clock(
    setup: Setup,
    now: Callable[[], float] = time.time,
    kernel: Callable[[], ClockState] = read_kernel_clock,
) -> list[Finding]:
    """Compare the clock with the times of files, and ask the kernel whether a service sets it.

    Files of the program and of the node cannot be newer than now.
    """
    newest = max(_times(_known_files(setup)), default=0.0)
    behind = newest - now()
    if behind > CLOCK_SKEW_S:
        said = (
            f"it is at least {behind / 60:.0f} minutes behind the newest file of the program or "
            f"its state, and other nodes tolerate {CLOCK_SKEW_S // 60}; {_REMEDY}, or set it once "
            "with: date --set 'YYYY-MM-DD HH:MM'"
        )
        return [Finding(_SUBJECT, Outcome.LACKS, said)]
    try:
        state = kernel()
    except BackendError as error:
        said = f"it seems right, but the kernel does not tell whether a service sets it ({error})"
        return [Finding(_SUBJECT, Outcome.UNKNOWN, said)]
    return [_judged(state)]


def _judged(state: ClockState) -> Finding:
    if not state.synchronised:
        said = (
            "it seems right, but the kernel knows of no time service that sets it, and other "
            f"nodes tolerate an error of {CLOCK_SKEW_S // 60} minutes; {_REMEDY}"
        )
        return Finding(_SUBJECT, Outcome.UNKNOWN, said)
    if state.error_s > CLOCK_SKEW_S:
        said = f"it may be {state.error_s / 60:.0f} minutes off; {_REMEDY}"
        return Finding(_SUBJECT, Outcome.LACKS, said)
    return Finding(_SUBJECT, Outcome.WORKS, f"set by a time service to {state.error_s:.3f} s")


def _known_files(setup: Setup) -> Iterable[Path]:
    yield Path(__file__)
    if setup.path is not None:
        node = setup.configuration.node
        yield from (setup.path, node.key_file, node.state_dir / "topology.sqlite")


def _times(paths: Iterable[Path]) -> Iterable[float]:
    for path in paths:
        try:
            yield path.stat().st_mtime
        except OSError:
            continue
