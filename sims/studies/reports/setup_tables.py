"""Parts of the report about the set-up: settings, limits, and how to repeat the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sims.scenario.plain import plain_of
from sims.scenario.scenario import Scenario
from sims.scenario.study import Axis, Study
from sims.scenario.toml import render_toml
from sims.studies.reports.numbers import duration
from sims.studies.reports.page import ReportCell, ReportTable, table
from sims.studies.results.reading import Results

__all__ = ["Reproduction", "SetupText", "limits", "origin_line", "reproduce", "setup"]

_FEW_SEEDS: Final = 10
"""With fewer seeds, Student's t is above 2.26, and intervals are wide."""


@dataclass(frozen=True, slots=True)
class SetupText:
    """What was simulated: sentences, the axes of the sweep, settings without their default."""

    sentences: Sequence[str]
    axes: Sequence[Axis]
    changed: ReportTable


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How to repeat a study.

    Attributes:
        origin_command: the command that made the results, or empty if it is unknown.
        command: a command that makes them again.
        scenario: the scenario as TOML.
        versions: the versions of the programs.
        digests: the event digest of each run, one a line.
    """

    origin_command: str
    command: str
    scenario: str
    versions: ReportTable
    digests: str


def setup(study: Study) -> SetupText:
    """Return a description of the simulation and the settings that differ from defaults."""
    swept = {axis.setting: ", ".join(map(str, axis.values)) + " (sweep)" for axis in study.axes}
    rows = [
        [ReportCell(name, code=True), ReportCell(swept.get(name, value)), ReportCell(default)]
        for name, value, default in _differing(study.base, swept)
    ]
    changed = table(
        "Settings that differ from their defaults", ["setting", "value", "default"], rows
    )
    sentences = list(_sentences(study.points[0].scenario))
    if len(study.points) > 1:
        sentences.append(f"This is the first of {len(study.points)} points.")
    return SetupText(sentences, study.axes, changed)


def _sentences(scenario: Scenario) -> Iterator[str]:
    seeds = len(scenario.seeds)
    how = (
        "the product's own cores in every node"
        if scenario.fidelity == "full"
        else ("a vectorised model of the overlay")
    )
    yield (
        f"{scenario.nodes:,} nodes run {how}, under the session model {scenario.churn.model}, for "
        f"{duration(scenario.duration_s)} of simulated time after a warm-up of "
        f"{duration(scenario.warm_up_s)}, with {seeds} seed{'' if seeds == 1 else 's'}."
    )
    arrival = scenario.arrival
    if arrival.kind != "equilibrium":
        share = f" of {100 * arrival.share:g} % of the nodes" if arrival.share else ""
        word = "for" if arrival.kind == "partition" else "within"
        lasts = f", {word} {duration(arrival.lasts_s)}" if arrival.lasts_s else ""
        yield (
            f"{duration(arrival.at_s)} after the warm-up, this disturbance begins: "
            f"{arrival.kind}{share}{lasts}."
        )
    latency = scenario.latency
    if latency.model == "uniform":
        delay = f"uniform in {1000 * latency.low_s:g} to {1000 * latency.high_s:g} ms"
    elif latency.model == "constant":
        delay = f"{1000 * latency.low_s:g} ms"
    else:
        delay = "from a matrix of regions"
    yield f"The one-way delay is {delay}, and {100 * latency.loss:g} % of datagrams are lost."
    if scenario.adversary.behaviours:
        yield (
            f"The adversary holds {100 * scenario.adversary.share:g} % of the nodes. Their "
            f"behaviours are: {', '.join(scenario.adversary.behaviours)}."
        )
    if scenario.circuits.clients:
        yield (
            f"{scenario.circuits.clients} clients keep a path of {scenario.circuits.hops} hops "
            f"each, chosen by {scenario.circuits.strategy}."
        )


def _differing(scenario: Scenario, swept: Collection[str]) -> Iterator[tuple[str, str, str]]:
    defaults = dict(_flat(plain_of(Scenario())))
    for name, value in _flat(plain_of(scenario)):
        if name in ("name", "question", "expectations"):
            continue
        if value != defaults.get(name) or name in swept:
            yield name, value, defaults.get(name, "")


def _flat(table_: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table_.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            yield f"{before}{name}", ", ".join(str(each) for each in value)
        else:
            yield f"{before}{name}", str(value)


def limits(study: Study) -> list[str]:
    """Return what cannot be concluded from the results."""
    scenario = study.base
    said = [
        "Intervals are computed over the seeds, because the events of one run share an overlay "
        "and are not independent. Intervals of means use Student's t, and those of quantiles use "
        "a percentile bootstrap.",
        "The network has delay and loss, but no queues, no NAT and no shared bottlenecks. So "
        "latencies are those of an Internet without congestion.",
        "Sessions are drawn independently for each node. The session model has no daily rhythm "
        "and no nodes that fail together.",
    ]
    if scenario.fidelity == "full" and not scenario.verify_signatures:
        said.append(
            "Signatures are neither made nor verified. A genuine one counts as valid, and a forged "
            "one as invalid. The option --verify-signatures makes and verifies each."
        )
    if scenario.fidelity == "model":
        said.append(
            "This is the vectorised model and not the product's code. It is compared with the full "
            "simulation for 1,000 to 10,000 nodes. Beyond these sizes it extrapolates."
        )
    few = min(len(point.scenario.seeds) for point in study.points)
    if few < _FEW_SEEDS:
        said.append(
            f"The study has {few} seed{'' if few == 1 else 's'} per point. With fewer than "
            f"{_FEW_SEEDS}, intervals are wide, so read them before the means."
        )
    return said


def reproduce(results: Results) -> Reproduction:
    """Return the command, the scenario file, the versions and the digests."""
    sweep = "".join(
        f" --sweep '{axis.setting}={','.join(map(str, axis.values))}'"
        for axis in results.study.axes
    )
    command = f"overlay sim churn scenario.toml{sweep} --out results"
    versions = results.origin.get("versions")
    rows = [
        [ReportCell(str(name)), ReportCell(str(version))]
        for name, version in (versions.items() if isinstance(versions, dict) else ())
        if version
    ]
    digests = "\n".join(
        f"{run.digest}  {results.study.points[run.point].name} seed {run.seed}"
        for run in results.runs
    )
    return Reproduction(
        origin_command=str(results.origin.get("command") or ""),
        command=command,
        scenario=render_toml(results.study.base),
        versions=table("Versions", ["what", "version"], rows),
        digests=digests,
    )


def origin_line(results: Results) -> str:
    """Return the date and the program version of the results."""
    versions = results.origin.get("versions")
    told = versions if isinstance(versions, dict) else {}
    parts = [f"Simulated {results.origin['started']}" if "started" in results.origin else ""]
    parts.append(f"overlay {told['overlay']}" if told.get("overlay") else "")
    parts.append(f"source {str(told['git'])[:12]}" if told.get("git") else "")
    return ", ".join(part for part in parts if part) + "."
