"""Run the paper's experiment: measure, tabulate, draw, and refresh the results page.

    python3 -m lab.paper                    everything, in docs/ (about 20 minutes)
    python3 -m lab.paper --replot           from the stored measurements
    python3 -m lab.paper --quick --output build/paper-quick       a trial of two minutes

Measured values are written to ``build/paper/`` (or ``--output``) at once. ``--resume`` continues an
interrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.kernel import KernelRun, missing_kernel_requirements
from lab.namespaces import LabError
from lab.paper import page, summary
from lab.paper.campaign import CONDITIONS, FULL, OBSERVATIONS, QUICK, CampaignSettings
from lab.paper.figures import draw_all
from lab.paper.observations import read_visits
from lab.paper.priority import first_in_line
from lab.paper.statements import judge

__all__ = ["main", "publish"]

_ROOT: Final = Path(__file__).parents[2]
_RESULTS: Final = _ROOT / "build" / "paper"
_DOCS: Final = _ROOT / "docs"
_PAGE: Final = _DOCS / "results" / "paper-experiment.md"
_SETTING_UP_S: Final = 600.0
"""In seconds. Boot, platform and circuits take half a minute, on a busy host ten times as long."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    arguments = _arguments(argv)
    own = arguments.output is not None
    results = arguments.output if own else _RESULTS
    results.mkdir(parents=True, exist_ok=True)
    try:
        if not arguments.replot:
            plan = QUICK if arguments.quick else FULL
            if arguments.minutes:
                plan = dataclasses.replace(plan, budget_s=60 * arguments.minutes)
            _measure(plan, results, resume=arguments.resume)
        publish(results, results if own else _DOCS, None if own else _PAGE)
    except (LabError, FileNotFoundError, ValueError) as error:
        print(f"paper: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m lab.paper", description="Repeat the paper's experiment on today's kernel."
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few packets")
    parser.add_argument("--replot", action="store_true", help="measure nothing")
    parser.add_argument("--resume", action="store_true", help="add to what was measured before")
    parser.add_argument("--minutes", type=float, help="how long to measure (16)")
    parser.add_argument("--output", type=Path, help="write everything there and leave docs/ alone")
    arguments = parser.parse_args(argv)
    if arguments.quick and arguments.output is None:
        parser.error("--quick needs --output DIRECTORY: its figures are no results.")
    return arguments


def _measure(plan: CampaignSettings, results: Path, *, resume: bool) -> None:
    missing = missing_kernel_requirements()
    if missing:
        raise LabError(" ".join(missing))
    if not resume:
        for name in (OBSERVATIONS, CONDITIONS):
            (results / name).unlink(missing_ok=True)
    run = KernelRun(
        command=[
            *(sys.executable, "-m", "lab.paper.campaign"),
            *(str(results.resolve()), plan.encode()),
        ],
        directory=_ROOT,
        shared=[results],
        time_limit_s=plan.budget_s + _SETTING_UP_S,
    )
    with first_in_line() if plan.real_time else contextlib.nullcontext():
        status = run.run(sys.stdout.buffer, sys.stderr.buffer)
    if status:
        raise LabError(f"the measurement ended with status {status}; its message is above.")
    found = json.loads((results / CONDITIONS).read_text()) | {"host": _processor()}
    (results / CONDITIONS).write_text(json.dumps(found, indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unknown processor"


def publish(results: Path, docs: Path, results_page: Path | None) -> None:
    """Write CSV, figures and, if it exists, the results page from the measurements.

    Raises:
        FileNotFoundError: there are no measurements.
        ValueError: there are too few measurements, or the page lacks its markers.
    """
    rows = summary.summarise(read_visits(results / OBSERVATIONS))
    if not rows:
        raise ValueError("no cell was visited twice; measure longer.")
    summary.write_rows(rows, results / "paper.csv")
    figures = draw_all(rows, docs / "figures")
    if results_page is not None:
        shutil.copy(results / "paper.csv", docs / "figures" / "paper.csv")
        page.refresh(results_page, page.render(rows, results / CONDITIONS))
    for each in judge(rows):
        print(f"{each.verdict:15} {each.statement} {each.found}.")
    print(f"paper: {len(rows)} cells in {results / 'paper.csv'}, {len(figures)} files of figures")


if __name__ == "__main__":
    sys.exit(main())
