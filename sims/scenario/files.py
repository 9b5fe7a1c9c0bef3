"""Load scenarios by name, if they are shipped, or from a file."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from overlay.config.text import read_text
from overlay.errors import ConfigurationError
from sims.scenario.plain import scenario_of
from sims.scenario.scenario import Scenario
from sims.scenario.toml import parse_tables

__all__ = ["load_scenario", "load_tables", "shipped_names"]

_TRACE: Final = re.compile(r"(trace\(\s*)((?:[^()]|\([^()]*\))+?)(\s*\))")


def shipped_names() -> list[str]:
    """Return the names of the scenarios that come with the simulator, sorted."""
    folder = files("sims") / "scenarios"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_scenario(named: str | Path, *, quick: bool = False) -> Scenario:
    """Load a shipped scenario by its name, or a scenario from a file.

    Raises:
        ConfigurationError: there is no such scenario, or it contains an error.
    """
    try:
        return scenario_of(load_tables(named, quick=quick))
    except ConfigurationError as error:
        if str(error).startswith(f"{named}: "):
            raise
        raise ConfigurationError(f"{named}: {error}") from error


def load_tables(named: str | Path, *, quick: bool = False) -> dict[str, object]:
    """Load the tables of a scenario, so that settings can be changed before the check.

    Raises:
        ConfigurationError: there is no such scenario, or the file is not TOML.
    """
    shipped = str(named) in shipped_names()
    text = _shipped_text(str(named)) if shipped else _file_text(Path(named))
    try:
        tables = parse_tables(text, quick=quick)
    except ConfigurationError as error:
        raise ConfigurationError(f"{named}: {error}") from error
    return tables if shipped else _anchored(tables, Path(named).absolute().parent)


def _shipped_text(name: str) -> str:
    return (files("sims") / "scenarios" / f"{name}.toml").read_text(encoding="utf-8")


def _file_text(path: Path) -> str:
    try:
        return read_text(path, kind="scenario")
    except (FileNotFoundError, ValueError) as error:
        raise ConfigurationError(_unknown(path)) from error


def _unknown(path: Path) -> str:
    close = difflib.get_close_matches(str(path), shipped_names(), n=1)
    hint = f'did you mean "{close[0]}"?' if close else 'see "overlay sim scenarios".'
    return f'there is no scenario "{path}", neither a file nor a shipped one; {hint}'


def _anchored(tables: dict[str, object], directory: Path) -> dict[str, object]:
    """Make relative paths in a scenario start at the scenario's directory."""
    churn, latency = tables.get("churn"), tables.get("latency")
    if isinstance(churn, dict) and isinstance(churn.get("model"), str):
        churn["model"] = _TRACE.sub(
            lambda found: f"{found[1]}{directory / found[2]}{found[3]}", churn["model"]
        )
    if isinstance(latency, dict) and isinstance(latency.get("matrix"), str) and latency["matrix"]:
        latency["matrix"] = str(directory / latency["matrix"])
    return tables
