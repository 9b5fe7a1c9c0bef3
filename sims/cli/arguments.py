"""The grammar of ``overlay sim``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from overlay.settings import Setting, declared
from overlay.settings.describe import option_default
from overlay.settings.option import add_option
from sims.scenario.plain import setting_by_name
from sims.scenario.running import AcceptSettings, RunSettings

__all__ = ["SETTINGS", "configure"]

SETTINGS: Final[Mapping[str, tuple[str, str | None]]] = {
    "--name": ("name", "NAME"),
    "--nodes": ("nodes", "N"),
    "--model": ("churn.model", "MODEL"),
    "--duration": ("duration_s", "TIME"),
    "--warm-up": ("warm_up_s", "TIME"),
    "--seeds": ("seeds", "N"),
    "--latency": ("latency.model", None),
    "--loss": ("latency.loss", "FRACTION"),
    "--arrival": ("arrival.kind", None),
    "--adversary-share": ("adversary.share", "FRACTION"),
    "--behaviour": ("adversary.behaviours", None),
    "--lookups-per-hour": ("lookups_per_hour", "N"),
    "--records": ("records", "N"),
    "--clients": ("circuits.clients", "N"),
    "--hops": ("circuits.hops", "N"),
    "--fidelity": ("fidelity", None),
    "--verify-signatures": ("verify_signatures", None),
    "--expect": ("expectations", "CONDITION"),
}
"""Options of ``overlay sim churn``, each with its setting and a word for the value in the help."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``overlay sim``. Parsed arguments name one as ``sim_command``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _churn(
        _command(commands, "churn", "simulate nodes that join and leave, and check expectations")
    )
    _plot(_command(commands, "plot", "draw the figures and the report of stored results again"))
    _accept(_command(commands, "accept", "compare the overlay with theory and measurements"))
    _command(commands, "scenarios", "list the scenarios that are shipped")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    added = commands.add_parser(
        name, help=about, description=f"{about[:1].upper()}{about[1:]}.", allow_abbrev=False
    )
    added.set_defaults(sim_command=name)
    # The option may also precede "sim", so its absence here must not reset it.
    added.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON"
    )
    added.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of a bug",
    )
    return added


def _churn(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "scenario",
        nargs="?",
        metavar="SCENARIO",
        help='a TOML file or a name of "overlay sim scenarios" (default: no file)',
    )
    _scenario(to.add_argument_group("settings of the scenario"))
    _running(to.add_argument_group("how it is run"))


def _scenario(to: argparse._ArgumentGroup) -> None:
    for flag, (name, metavar) in SETTINGS.items():
        known = setting_by_name(name)
        _option(to, flag, known, metavar)
    to.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="any setting by its name, as in --set dht.alpha=3 (repeatable)",
    )
    to.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="SETTING=VALUE,...",
        help="run every combination, as in --sweep nodes=500,1000 (repeatable)",
    )
    to.add_argument(
        "--quick", action="store_true", help="use the small size of the scenario, for a test"
    )


def _option(
    to: argparse.ArgumentParser | argparse._ArgumentGroup,
    flag: str,
    known: Setting,
    metavar: str | None,
) -> None:
    add_option(to, flag, known, remark=f"default: {option_default(known)}", metavar=metavar)


def _running(to: argparse._ArgumentGroup) -> None:
    to.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="new directory for results (default: sim-results/NAME-1)",
    )
    how = declared(RunSettings)
    _option(to, "--jobs", how["jobs"], "N")
    _option(to, "--dask", how["dask"], "ADDRESS")
    to.add_argument(
        "--dry-run",
        action="store_true",
        help="print the scenario with all settings and run nothing",
    )


def _plot(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "directory", type=Path, metavar="DIR", help='results directory of "overlay sim churn"'
    )


def _accept(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="name such as E6 (default: all)"
    )
    to.add_argument("--quick", action="store_true", help="run the short form, which takes minutes")
    to.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="E6.nodes=700",
        help="change a setting of an experiment, as in E6.nodes=700 (repeatable)",
    )
    how = declared(AcceptSettings)
    _option(to, "--seeds", how["seeds"], "N")
    to.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for figures and verdicts (default: sim-results/accept-1, or the next)",
    )
    _option(to, "--jobs", how["jobs"], "N")
