"""``overlay sim plot``: draw stored results again."""

from __future__ import annotations

import argparse

from sims.cli.answer import answer
from sims.studies.reports.drawing import draw
from sims.studies.results.reading import read_results

__all__ = ["plot"]


def plot(arguments: argparse.Namespace) -> int:
    """Read a results directory, and write its summary, figures and report again.

    Raises:
        ConfigurationError: the directory contains no study.
        BackendError: the directory cannot be written.
    """
    drawn = draw(arguments.directory, read_results(arguments.directory))
    return answer(drawn, as_json=arguments.json)
