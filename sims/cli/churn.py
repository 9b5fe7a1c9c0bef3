"""``overlay sim churn``: make a study from the options, run it, and report the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from overlay.errors import ConfigurationError
from sims.cli.answer import INTERRUPTED, answer
from sims.cli.arguments import SETTINGS
from sims.cli.progress import ProgressLine
from sims.scenario.files import load_tables
from sims.scenario.plain import set_by_name
from sims.scenario.running import RunSettings
from sims.scenario.study import Study, parse_axis, parse_value, study_of
from sims.scenario.toml import render_toml
from sims.studies.results.directory import free_directory
from sims.studies.sweep.checks import check_study
from sims.studies.sweep.execute import Options, Watcher, execute

__all__ = ["churn", "study_of_arguments"]


def churn(arguments: argparse.Namespace) -> int:
    """Simulate, write the results directory, and return the exit status.

    Raises:
        ConfigurationError: the scenario or an option is wrong.
        BackendError: the results could not be written.
    """
    study = study_of_arguments(arguments)
    options = Options(RunSettings(arguments.jobs, arguments.dask), command=tuple(_command()))
    if arguments.dry_run:
        check_study(study, at_a_time=options.at_a_time)
        for point in study.points:
            print(f"# {point.name}\n{render_toml(point.scenario)}")
        return 0
    out = arguments.out or free_directory(study.base.name)
    line = ProgressLine(study, sys.stderr)
    try:
        drawn = execute(study, out, options, Watcher(line.progress, line.ended, line.stopping))
    finally:
        line.close()
    status = answer(drawn, as_json=arguments.json)
    return INTERRUPTED if drawn.results.state == "interrupted" else status


def study_of_arguments(arguments: argparse.Namespace) -> Study:
    """Return the study of the scenario file, if any, changed by the options.

    Raises:
        ConfigurationError: the file or an option is wrong.
    """
    named = arguments.scenario
    if named is None and arguments.quick:
        raise ConfigurationError(
            "--quick is the small size of a scenario; name one, or write --nodes and --duration."
        )
    tables: Mapping[str, object] = load_tables(named, quick=arguments.quick) if named else {}
    for flag, (setting, _metavar) in SETTINGS.items():
        given = getattr(arguments, flag.removeprefix("--").replace("-", "_"))
        if given is not None:
            tables = set_by_name(tables, setting, given)
    for text in arguments.set:
        tables = _set(tables, text)
    try:
        return study_of(tables, [parse_axis(text) for text in arguments.sweep])
    except ConfigurationError as error:
        where = f"{named}: " if named and not str(error).startswith("--") else ""
        raise ConfigurationError(f"{where}{error}") from error


def _set(tables: Mapping[str, object], text: str) -> Mapping[str, object]:
    setting, equals, value = text.partition("=")
    if not equals or not setting.strip():
        raise ConfigurationError(
            f"--set {text[:60]} sets nothing; write a setting and its value, as in "
            "--set dht.alpha=3."
        )
    return set_by_name(tables, setting.strip(), parse_value(value))


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
