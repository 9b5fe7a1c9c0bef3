"""Checks before the first run: whether named parts exist, and whether memory suffices."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from overlay.plugins import load_plugin
from overlay.settings import read_settings
from sims.metrics import METRICS
from sims.scenario.scenario import Arrival, Scenario
from sims.scenario.study import Study
from sims.world.churn import parse_model
from sims.world.latency import build_latency

__all__ = ["available_bytes", "check_study", "unmeasured"]

_BYTES_A_NODE: Final = {"full": 60_000, "model": 1_000}
"""Upper bound of memory per node in bytes, by fidelity. The simulator is designed for it."""


def check_study(study: Study, *, at_a_time: int | None) -> None:
    """Check that every scenario of a study can be run.

    Args:
        study: the study to run.
        at_a_time: runs at the same time on this machine; None if other machines run them.

    Raises:
        ConfigurationError: a scenario cannot be run; the message says what to write instead.
    """
    for point in study.points:
        try:
            _check(point.scenario)
            if at_a_time is not None:
                _check_memory(point.scenario, min(at_a_time, study.runs))
        except ConfigurationError as error:
            where = f"{point.name}: " if study.axes else ""
            raise ConfigurationError(f"{where}{error}") from error


def _check(scenario: Scenario) -> None:
    try:
        parse_model(scenario.churn.model)
    except ConfigurationError as error:
        raise ConfigurationError(f"[churn] model: {error}") from error
    _check_arrival(scenario)
    latency = scenario.latency
    matrix = Path(latency.matrix) if latency.matrix else None
    try:
        build_latency(latency.model, low_s=latency.low_s, high_s=latency.high_s, matrix=matrix)
    except ConfigurationError as error:
        raise ConfigurationError(f"[latency]: {error}") from error
    read_settings("dht", DhtSettings, scenario.dht)
    try:
        load_plugin("overlay.selection", scenario.circuits.strategy)
    except ConfigurationError as error:
        raise ConfigurationError(f"[circuits] strategy: {error}") from error
    if scenario.fidelity == "model":
        from sims.vectorised.settings import check_expressible

        check_expressible(scenario)
    for expected in scenario.expectations:
        _check_metric(expected.metric)
        lacking = unmeasured(expected.metric, scenario)
        if lacking is not None:
            raise ConfigurationError(
                f'expectations has "{expected}", but this scenario does not measure '
                f"{expected.metric}: {lacking}."
            )


def _check_arrival(scenario: Scenario) -> None:
    """Refuse settings without any effect. Only new runs are checked, not stored results."""
    arrival = scenario.arrival
    if arrival.kind == "equilibrium" and arrival.at_s != Arrival().at_s:
        raise ConfigurationError(
            f"[arrival] at_s = {arrival.at_s:g} says nothing about 'equilibrium', in which nothing "
            "happens to many at once; leave it out, or choose another kind."
        )
    lasts_s = arrival.lasts_s or 0.0
    if arrival.kind == "partition" and arrival.at_s + lasts_s >= scenario.duration_s:
        raise ConfigurationError(
            f"[arrival] at_s + lasts_s = {arrival.at_s + lasts_s:g} lies after the end of the run, "
            "so that no recovery could be measured; write less than duration_s = "
            f"{scenario.duration_s:g}."
        )


def _check_metric(name: str) -> None:
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(METRICS)}."
        raise ConfigurationError(f"expectations: nothing measures {name}; {hint}")


def unmeasured(metric: str, scenario: Scenario) -> str | None:
    """Return as a clause why a scenario does not measure a metric, or None if it does."""
    full = scenario.fidelity == "full"
    paths = metric.startswith(("path_", "circuit_"))
    if (paths or (full and metric.startswith("mtt_"))) and not scenario.circuits.clients:
        return "no node keeps a path; write --clients 20, say"
    if metric in ("recovery_s", "recovered") and scenario.arrival.kind == "equilibrium":
        return "nothing disturbs the overlay; write --arrival mass-failure, say"
    if metric.startswith("lookup_") and not scenario.lookups_per_hour:
        return "there are no lookups; write a higher --lookups-per-hour"
    crowd = metric in ("eclipse_success", "table_sybils_max", "bucket_sybils_max")
    if (crowd or metric == "mtt_adversary_ratio") and not scenario.adversary.is_there:
        return "there is no adversary; write --adversary-share 0.1, say"
    return None


def _check_memory(scenario: Scenario, at_a_time: int) -> None:
    available = available_bytes()
    needed = scenario.nodes * _BYTES_A_NODE[scenario.fidelity] * at_a_time
    if available is None or needed <= available:
        return
    fitting = available // (_BYTES_A_NODE[scenario.fidelity] * at_a_time)
    more = "or --jobs 1, " if at_a_time > 1 else ""
    model = "" if scenario.fidelity == "model" else "or --fidelity model "
    raise ConfigurationError(
        f"nodes = {scenario.nodes} in {at_a_time} runs at a time need about {needed / 1e9:.1f} GB "
        f"of memory, and {available / 1e9:.1f} GB are available; write at most {fitting} nodes, "
        f"{more}{model}instead."
    )


def available_bytes() -> int | None:
    """Return the available memory in bytes (proc(5), MemAvailable)."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
