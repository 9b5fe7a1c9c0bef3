"""The command that the simulator adds to ``overlay`` (entry-point group ``overlay.commands``).

====== ==================================================================
status meaning
====== ==================================================================
0      everything ran, and all expectations held
1      an expectation did not hold, or there was an error; one sentence says which
130    interrupted; the results so far are saved
====== ==================================================================
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from overlay.errors import ConfigurationError
from overlay.logs import configure_logging
from sims.cli.arguments import configure

__all__ = ["SimCommand"]

Run = Callable[[argparse.Namespace], int]

_EXTRAS: Final = {
    "dask": "dask",
    "distributed": "dask",
    "jinja2": "sims",
    "matplotlib": "sims",
    "numpy": "sims",
}


class SimCommand:
    """``overlay sim``."""

    about = "simulate an overlay under churn, and judge it"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of ``overlay sim``."""
        configure(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        """Run one command of ``overlay sim``.

        Raises:
            OverlayError: the command failed.
        """
        configure_logging("error")  # warnings of simulated nodes would hide the progress
        try:
            return _chosen(arguments.sim_command)(arguments)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise ConfigurationError(
                f"this needs the package {error.name}; install it with "
                f"\"pip install '.[{extra}]'\" in a clone."
            ) from error


def _chosen(name: str) -> Run:
    """Import only what the chosen command needs."""
    if name == "churn":
        from sims.cli.churn import churn

        return churn
    if name == "plot":
        from sims.cli.plot import plot

        return plot
    if name == "scenarios":
        from sims.cli.scenarios import scenarios

        return scenarios
    from sims.acceptance.command import accept

    return accept
