"""Convert scenarios from and to nested tables, the common form of TOML, JSON and options.

Everything that a user writes passes through :func:`scenario_of`, so that the same error has the
same message in a file, an option and a program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Final

from overlay.errors import ConfigurationError
from overlay.settings import Setting, declared, refuse_unknown
from sims.scenario.parameters import Parameters
from sims.scenario.scenario import Scenario
from sims.scenario.sections import ScenarioSettings

__all__ = ["SECTIONS", "merged", "plain_of", "scenario_of", "set_by_name", "setting_by_name"]

SECTIONS: Final[Mapping[str, type[Any]]] = {
    name: type(known.value)
    for name, known in declared(Scenario).items()
    if isinstance(known.value, ScenarioSettings)
}
"""The tables of a scenario besides its top level, in the order of a file."""

_FREE_TABLE: Final = "dht"
"""A setting that is a table, whose names another module declares."""

Table = Mapping[str, object]


def plain_of(scenario: object) -> dict[str, object]:
    """Return a scenario or a section as types of JSON and TOML, without values of None."""
    plain: dict[str, object] = {}
    for name in declared(type(scenario)):
        value = getattr(scenario, name)
        if value is not None:
            plain[name] = _plain(value)
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
    refuse_unknown("setting", plain, declared(Scenario))
    given: Mapping[str, Any] = plain
    return Scenario(**given)


def setting_by_name(name: str) -> Setting:
    """Return the declaration of a setting; its name has the form ``nodes`` or ``adversary.share``.

    Raises:
        KeyError: there is no such setting.
    """
    section, _, inner = name.rpartition(".")
    return declared(SECTIONS[section] if section else Scenario)[inner]


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
    refuse_unknown("setting", [first], declared(Scenario))
    if not rest:
        if first in SECTIONS:
            known = ", ".join(f"{first}.{each}" for each in declared(SECTIONS[first]))
            raise ConfigurationError(f"{first} is a table of settings; name one of {known}.")
        return {**plain, first: value}
    if first in SECTIONS:
        refuse_unknown(f"[{first}] setting", [rest[0]], declared(SECTIONS[first]))
    elif first != _FREE_TABLE:
        raise ConfigurationError(f"{first} is no table, so there is no {name}; write {first}.")
    if len(rest) > 1:
        raise ConfigurationError(f"there is no setting {name}; name it as in adversary.share.")
    return merged(plain, {first: {rest[0]: value}})
