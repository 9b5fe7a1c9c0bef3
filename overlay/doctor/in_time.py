"""Run the checks one after the other, and report those that do not end in time as unknown.

A check can wait for a lock of the packet filter or for a file on a server. Usually one check runs
at a time, because some checks create a device or a filter that others would see. A check that
takes longer than its turn continues while the next one runs::

    check 1 ──> check 2 ─────(turn is over)─────────────────────> end: unknown
                                   └──> check 3 ──> check 4
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from overlay.doctor.findings import Check, Finding, Outcome, Purpose, Setup

__all__ = ["WAIT_S", "findings_in_time"]

WAIT_S: Final = 1.5
"""Default of the longest wait for all checks together. With the start of the program and the
question to the running node, ``overlay doctor`` then takes less than 3 s."""

_TURNS: Final = 4
"""A turn is this fraction of the wait, so that four checks may hang and the others still end."""


@dataclass(slots=True)
class _Run:
    check: Check
    setup: Setup
    findings: list[Finding] | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        try:
            self.findings = list(self.check.run(self.setup))
        except BaseException as error:  # raised again by the caller
            self.error = error
        finally:
            self.done.set()


def findings_in_time(
    setup: Setup, checks: Sequence[Check], wait_s: float = WAIT_S
) -> list[tuple[str, Finding]]:
    """Return the findings of all checks, each with the name of its check, in their order.

    Args:
        setup: the node to examine for.
        checks: the checks, in the order of their start.
        wait_s: seconds after which checks that have not ended are reported as unknown. They
            continue as daemon threads, so they end with the process.
    """
    end = time.monotonic() + wait_s
    runs = []
    for check in checks:
        run = _Run(check, setup)
        runs.append(run)
        threading.Thread(target=run, name=check.name, daemon=True).start()
        # The last turns are short if checks hang, but each check gets the time that it needs
        # without a wait.
        run.done.wait(max(0.02, min(wait_s / _TURNS, end - time.monotonic())))
    for run in runs:
        run.done.wait(max(0.0, end - time.monotonic()))
    return [(run.check.name, finding) for run in runs for finding in _result(run, wait_s)]


def _result(run: _Run, wait_s: float) -> list[Finding]:
    if run.error is not None:
        raise run.error
    if run.done.is_set() and run.findings is not None:
        return run.findings
    said = (
        f"not known within {wait_s:g} s, because the check waits for a file or for a lock of "
        f"another program, or the host is busy; repeat it with: overlay doctor --wait 30"
    )
    return [Finding(run.check.name, Outcome.UNKNOWN, said, (Purpose.ADVICE,))]
