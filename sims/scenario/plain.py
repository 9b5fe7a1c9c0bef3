"""Convert scenarios from and to nested tables, the common form of TOML, JSON and options.

Everything that a user writes passes through :func:`scenario_of`, so that the same error has the
same message in a file, an option and a program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from overlay.errors import ConfigurationError
from sims.scenario.parameters import Parameters
from sims.scenario.scenario import Scenario
from sims.scenario.sections import Adversary, Arrival, Churn, Circuits, LatencySection

__all__ = ["SECTIONS", "merged", "plain_of", "scenario_of", "set_by_name"]

SECTIONS: Final[Mapping[str, type[Any]]] = {
    "churn": Churn,
    "arrival": Arrival,
    "latency": LatencySection,
    "adversary": Adversary,
    "circuits": Circuits,
}
"""The tables of a scenario besides its top level, in the order of a file."""

_FREE_TABLE: Final = "dht"
"""A setting that is a table, whose names another module declares."""

Table = Mapping[str, object]


def plain_of(scenario: object) -> dict[str, object]:
    """Return a scenario or a section as types of JSON and TOML, without values of None."""
    plain: dict[str, object] = {}
    for declared in fields(scenario):  # type: ignore[arg-type]  # a dataclass by contract
        value = getattr(scenario, declared.name)
        if value is not None:
            plain[declared.name] = _plain(value)
    return plain


def _plain(value: object) -> object:
    if isinstance(value, Parameters):
        return dict(value)
    if isinstance(value, tuple):
        return [item if isinstance(item, int | str) else str(item) for item in value]
    if is_dataclass(value):
        return plain_of(value)
    return value


def scenario_of(plain: Table) -> Scenario:
    """Return a checked scenario.

    Raises:
        ConfigurationError: a name is unknown, or a value is not permitted.
    """
    _check_names("setting", plain, _names(Scenario))
    given: dict[str, Any] = dict(plain)
    for section, of in SECTIONS.items():
        if section in given:
            given[section] = _section(section, of, given[section])
    return Scenario(**given)


def _section(section: str, of: type[Any], table: object) -> object:
    if isinstance(table, of):
        return table
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            f"{section} must be a table; write [{section}] on a line and its settings below."
        )
    _check_names(f"[{section}] setting", table, _names(of))
    return of(**table)


def merged(base: Table, over: Table) -> dict[str, object]:
    """Merge two nested tables. If both have a value, that of ``over`` counts."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[name] = merged(below, value) if both else value  # type: ignore[arg-type]  # both Mappings
    return result


def set_by_name(plain: Table, name: str, value: object) -> dict[str, object]:
    """Return the tables with one setting changed; its name has the form ``adversary.share``.

    Raises:
        ConfigurationError: there is no such setting.
    """
    first, *rest = name.split(".")
    _check_names("setting", [first], _names(Scenario))
    if not rest:
        if first in SECTIONS:
            known = ", ".join(f"{first}.{each}" for each in _names(SECTIONS[first]))
            raise ConfigurationError(f"{first} is a table of settings; name one of {known}.")
        return {**plain, first: value}
    if first in SECTIONS:
        _check_names(f"[{first}] setting", [rest[0]], _names(SECTIONS[first]))
    elif first != _FREE_TABLE:
        raise ConfigurationError(f"{first} is no table, so there is no {name}; write {first}.")
    if len(rest) > 1:
        raise ConfigurationError(f"there is no setting {name}; name it as in adversary.share.")
    return merged(plain, {first: {rest[0]: value}})


def _names(of: type[Any]) -> list[str]:
    return [declared.name for declared in fields(of)]


def _check_names(kind: str, given: Iterable[object], known: list[str]) -> None:
    for name in given:
        if name not in known:
            shown = str(name)[:60]
            close = difflib.get_close_matches(shown, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}."
            raise ConfigurationError(f'there is no {kind} "{shown}"; {hint}')
