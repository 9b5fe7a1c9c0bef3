"""Read and write scenarios as TOML. Reading what was written gives an equal scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping

from overlay.config.text import toml_tables
from overlay.errors import ConfigurationError
from sims.scenario.plain import merged, plain_of, scenario_of
from sims.scenario.scenario import Scenario

__all__ = ["QUICK", "parse_tables", "parse_toml", "render_toml"]

QUICK = "quick"
"""The table whose settings replace others if a scenario runs at its quick size."""


def parse_toml(text: str, *, quick: bool = False) -> Scenario:
    """Read a scenario.

    Args:
        text: the content of the file.
        quick: apply the table ``[quick]``, which makes the scenario smaller.

    Raises:
        ConfigurationError: the text is not TOML or contains an error.
    """
    return scenario_of(parse_tables(text, quick=quick))


def parse_tables(text: str, *, quick: bool = False) -> dict[str, object]:
    """Read a scenario's tables without checking the settings; the quick size is checked too.

    Raises:
        ConfigurationError: the text is not TOML, or ``[quick]`` contains an error.
    """
    tables = _tables(text)
    over = tables.pop(QUICK, {})
    if not isinstance(over, Mapping):
        raise ConfigurationError(f"{QUICK} must be a table; write [{QUICK}] on a line of its own.")
    laid_over = merged(tables, over)
    if not quick and over:
        _check_quick(laid_over)
    return laid_over if quick else tables


def _check_quick(laid_over: Mapping[str, object]) -> None:
    try:
        scenario_of(laid_over)
    except ConfigurationError as error:
        raise ConfigurationError(f"with [{QUICK}] laid over the rest, {error}") from error


def _tables(text: str) -> dict[str, object]:
    try:
        return toml_tables(text)
    except ValueError as error:
        raise ConfigurationError(f"this is not valid TOML: {error}; correct that place.") from error


def render_toml(scenario: Scenario) -> str:
    """Return a scenario as TOML, from which :func:`parse_toml` returns an equal one."""
    lines: list[str] = []
    _render(plain_of(scenario), "", lines)
    return "\n".join(lines) + "\n"


def _render(table: Mapping[str, object], path: str, lines: list[str]) -> None:
    nested = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    lines += [f"{_key(n)} = {_value(v)}" for n, v in table.items() if n not in nested]
    for name, value in nested.items():
        inner = f"{path}.{_key(name)}" if path else _key(name)
        if value:
            lines += ["", f"[{inner}]"]
            _render(value, inner, lines)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
    return name if bare else _quoted(name)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float) and math.isfinite(value) and "e" in repr(value):
        return repr(value).replace("e+", "e")
    return repr(value)


def _quoted(text: str) -> str:
    def escaped(character: str) -> str:
        if character in '"\\':
            return f"\\{character}"
        code = ord(character)
        return f"\\u{code:04X}" if code < 32 or code == 127 else character

    return '"' + "".join(escaped(character) for character in text) + '"'
