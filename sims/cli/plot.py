"""``overlay sim plot``: draw again what was measured before."""

from __future__ import annotations

import argparse

from sims.cli.answer import answer
from sims.results.drawing import draw
from sims.results.reading import read_results

__all__ = ["plot"]


def plot(arguments: argparse.Namespace) -> int:
    """Read a results directory, damaged or not, and write summary, figures and report anew.

    Raises:
        ConfigurationError: it holds no study.
        BackendError: it cannot be written.
    """
    drawn = draw(arguments.directory, read_results(arguments.directory))
    return answer(drawn, as_json=arguments.json)
