"""``python3 -m lab.churn``: play the script with real and simulated nodes, and compare.

The exit status is 0 if the figures agree and 1 if they differ. It is 2 if the laboratory could not
be built, and 3 if the figures differ on a host that was too busy for a fair comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from lab.churn.comparison import compare
from lab.churn.measured import Measured
from lab.churn.real import play
from lab.churn.report import MOST_LAG_S, page, write_report
from lab.churn.script import FAST, FULL, ChurnScript
from lab.churn.simulated import simulate
from lab.namespaces import LabError, missing_requirements

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its report."""
    arguments = _parser().parse_args(argv)
    missing = missing_requirements()
    if missing:
        sys.stderr.write(f"churn: {' '.join(missing)}\n")
        return 2
    script = ChurnScript(arguments.seed, FULL if arguments.full else FAST)
    try:
        with tempfile.TemporaryDirectory(prefix="churn-") as directory:
            real = play(script, Path(directory))
    except LabError as error:
        sys.stderr.write(f"churn: {error}\n")
        return 2
    simulated = _simulate(script, arguments.runs)
    figures = compare(real, simulated)
    write_report(arguments.out, script, real, simulated, figures)
    sys.stdout.write(page(script, figures, len(simulated), real.lag_s))
    if all(figure.agrees for figure in figures):
        return 0
    return 3 if real.lag_s > MOST_LAG_S else 1


def _simulate(script: ChurnScript, runs: int) -> list[Measured]:
    """Play the script in the simulator with seeds 1, 2, ..., on all cores."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(simulate, script), range(1, runs + 1)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab.churn", description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="twenty minutes of churn instead of two"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the script (default: 1)")
    parser.add_argument(
        "--runs", type=int, default=6, help="simulated runs, at least 2 (default: 6)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/churn"),
        help="directory of report.md and report.json (default: build/churn)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
