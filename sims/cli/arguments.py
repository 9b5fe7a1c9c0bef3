"""The grammar of ``overlay sim``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from overlay.cli.values import number, whole_number
from sims.scenario.sections import ARRIVALS, BEHAVIOURS, LATENCIES

__all__ = ["SETTINGS", "configure"]

SETTINGS: Final = {
    "name": "name",
    "nodes": "nodes",
    "model": "churn.model",
    "duration": "duration_s",
    "warm_up": "warm_up_s",
    "seeds": "seeds",
    "latency": "latency.model",
    "loss": "latency.loss",
    "arrival": "arrival.kind",
    "adversary_share": "adversary.share",
    "behaviour": "adversary.behaviours",
    "lookups_per_hour": "lookups_per_hour",
    "records": "records",
    "clients": "circuits.clients",
    "hops": "circuits.hops",
    "fidelity": "fidelity",
    "verify_signatures": "verify_signatures",
    "expect": "expectations",
}
"""Options of ``overlay sim churn`` and the settings that they change."""


_COUNT: Final = whole_number(0)


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
    to.add_argument("--name", metavar="NAME", help="name in reports and files")
    to.add_argument("--nodes", type=_COUNT, metavar="N", help="number of nodes, on line or not")
    to.add_argument("--model", metavar="MODEL", help='sessions: "kad2007", "weibull(3h, 0.6)", ...')
    to.add_argument("--duration", metavar="TIME", help="measured simulated time, such as 6h")
    to.add_argument("--warm-up", metavar="TIME", help="simulated time before the measurement")
    to.add_argument("--seeds", metavar="N", help="how many seeds, or a list of them: 3,7,11")
    to.add_argument("--latency", choices=LATENCIES, help="latency model")
    to.add_argument(
        "--loss", type=number, metavar="SHARE", help="fraction of datagrams that are lost, 0 to 1"
    )
    to.add_argument("--arrival", choices=ARRIVALS, help="event that affects many nodes at once")
    to.add_argument(
        "--adversary-share",
        type=number,
        metavar="SHARE",
        help="fraction of malicious nodes, 0 to 1",
    )
    to.add_argument(
        "--behaviour",
        action="append",
        choices=BEHAVIOURS,
        help="what malicious nodes do (repeatable)",
    )
    to.add_argument(
        "--lookups-per-hour", type=number, metavar="N", help="lookups per node and hour"
    )
    to.add_argument(
        "--records",
        type=_COUNT,
        metavar="N",
        help="records that are stored only once, to measure their survival",
    )
    to.add_argument("--clients", type=_COUNT, metavar="N", help="nodes that keep a path open")
    to.add_argument("--hops", type=_COUNT, metavar="N", help="number of Mix-nodes of a path")
    to.add_argument(
        "--fidelity",
        choices=("full", "model"),
        help="full: the product's code; model: the vectorised model",
    )
    to.add_argument(
        "--verify-signatures",
        action="store_true",
        default=None,
        help="compute and verify every signature",
    )
    to.add_argument(
        "--expect",
        action="append",
        metavar="PROMISE",
        help='such as "lookup_success mean >= 0.95"; replaces the scenario\'s (repeatable)',
    )
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


def _running(to: argparse._ArgumentGroup) -> None:
    to.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="new directory for results (default: sim-results/NAME-1)",
    )
    to.add_argument(
        "--jobs", type=_COUNT, metavar="N", help="runs at the same time (default: one per core)"
    )
    to.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster of this scheduler")
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
    to.add_argument("--seeds", type=_COUNT, metavar="N", help="number of seeds of each experiment")
    to.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for figures and verdicts (default: sim-results/accept-1, or the next)",
    )
    to.add_argument(
        "--jobs", type=_COUNT, metavar="N", help="experiments at the same time (default: 1)"
    )
