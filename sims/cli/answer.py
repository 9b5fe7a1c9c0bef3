"""The output of ``overlay sim`` about results, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from sims.studies.reports.drawing import Drawn
from sims.studies.reports.report import state_sentence

__all__ = ["HELD", "INTERRUPTED", "NOT_HELD", "answer"]

HELD: Final = 0
NOT_HELD: Final = 1
INTERRUPTED: Final = 130


def answer(drawn: Drawn, *, as_json: bool) -> int:
    """Print expected and measured values; return the exit status."""
    if as_json:
        print(json.dumps({"directory": str(drawn.path), **drawn.plain()}))
    else:
        print("\n".join(_lines(drawn)))
    return NOT_HELD if drawn.held is False else HELD


def _lines(drawn: Drawn) -> Iterator[str]:
    several = len(drawn.points) > 1
    for point in drawn.points:
        if several:
            yield f"{point.point.name}:"
        for verdict in point.verdicts:
            yield f"{'  ' if several else ''}{verdict.sentence()}"
    results = drawn.results
    for failure in results.failures:
        yield f"failed: seed {failure.seed}: {failure.sentence}"
    yield from results.notes
    yield from drawn.remarks
    if not results.complete:
        yield f"Incomplete: {state_sentence(results)}"
    if not any(point.verdicts for point in drawn.points):
        yield "The scenario states no expectation; nothing was judged."
    yield f"Report: {drawn.path / 'report.html'}"
