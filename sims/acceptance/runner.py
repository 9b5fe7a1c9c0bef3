"""Run acceptance experiments by name and collect their verdicts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from overlay.errors import ConfigurationError
from sims.acceptance.experiment import Experiment, Progress, with_values
from sims.acceptance.experiment_result import ExperimentResult

__all__ = ["DEFAULT_SEEDS", "parse_overrides", "prepared", "run", "run_one", "selected"]

DEFAULT_SEEDS = 10
QUICK_SEEDS = 2

Registry = Mapping[str, Experiment[Any]]
Overrides = Mapping[str, Mapping[str, str]]


def parse_overrides(texts: Iterable[str], registry: Registry) -> dict[str, dict[str, str]]:
    """Parse texts such as ``E6.nodes=700`` into settings of experiments.

    Raises:
        ConfigurationError: a text has another form or names an unknown experiment.
    """
    overrides: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        name, dot, setting = target.strip().partition(".")
        if not (equals and dot and setting):
            raise ConfigurationError(
                f"{text!r} sets nothing; write EXPERIMENT.setting=value, as in E6.nodes=700."
            )
        overrides.setdefault(_known(name, registry), {})[setting] = value
    return overrides


def selected(names: Sequence[str], registry: Registry) -> list[str]:
    """Return the experiments to run, in the order of the registry; all if none is named.

    Raises:
        ConfigurationError: there is no experiment of that name.
    """
    wanted = {_known(name, registry) for name in names}
    return [name for name in registry if not wanted or name in wanted]


def prepared(
    names: Sequence[str], registry: Registry, *, quick: bool, overrides: Overrides
) -> list[tuple[Experiment[Any], Any]]:
    """Return the experiments to run, each with its settings.

    Raises:
        ConfigurationError: an unknown experiment or setting, a value out of range, or a setting
            of an experiment that is not to be run.
    """
    chosen = selected(names, registry)
    for name, values in overrides.items():
        if name not in chosen:
            raise ConfigurationError(
                f"{name}.{next(iter(values))} is set, but {name} is not to be run; name it as well."
            )
    return [
        (one, with_values(one.name, one.form(quick=quick), dict(overrides.get(one.name, {}))))
        for one in (registry[name] for name in chosen)
    ]


def run(
    names: Sequence[str],
    registry: Registry,
    *,
    quick: bool,
    seeds: int | None,
    progress: Progress,
    overrides: Overrides,
) -> list[ExperimentResult]:
    """Run experiments one after the other.

    Raises:
        ConfigurationError: as for :func:`prepared`.
    """
    count = seeds if seeds is not None else QUICK_SEEDS if quick else DEFAULT_SEEDS
    chosen = prepared(names, registry, quick=quick, overrides=overrides)
    return [run_one(one, settings, count, progress) for one, settings in chosen]


def run_one(
    experiment: Experiment[Any],
    settings: Any,  # noqa: ANN401 - the experiment's own settings class
    seeds: int,
    progress: Progress,
) -> ExperimentResult:
    """Run one experiment with these settings."""
    progress(f"{experiment.name}: {experiment.title}")
    began = time.perf_counter()
    try:
        measured = experiment.measure(settings, seeds, progress)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ConfigurationError(f"{experiment.name} cannot run so: {reason}.") from error
    return ExperimentResult(
        experiment.name,
        experiment.title,
        experiment.tolerance,
        experiment.x_label,
        experiment.y_label,
        asdict(settings) | {"seeds": seeds},
        tuple(measured.points),
        time.perf_counter() - began,
        measured.note,
        experiment.by_row,
    )


def _known(name: str, registry: Registry) -> str:
    upper = name.strip().upper()
    if upper not in registry:
        raise ConfigurationError(
            f"There is no experiment {name.strip()!r}; there are {', '.join(registry)}."
        )
    return upper
