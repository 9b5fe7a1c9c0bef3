"""A study: one scenario, or the grid of its variants in a sweep.

``--sweep nodes=500,1000 --sweep adversary.share=0,.1`` makes four points. Their names contain the
settings that vary: ``nodes=500 adversary.share=0`` and so on. The last setting varies fastest.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.errors import ConfigurationError
from sims.scenario.parameters import Scalar
from sims.scenario.plain import plain_of, scenario_of, set_by_name
from sims.scenario.scenario import Scenario

__all__ = ["Axis", "Study", "StudyPoint", "parse_axis", "parse_value", "study_of"]

MAX_POINTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that varies, and its values in the order of the user."""

    setting: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One scenario of a study, with a name that is unique in the study."""

    name: str
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Study:
    """All points whose results are in one results directory; at least one point."""

    points: tuple[StudyPoint, ...]
    axes: tuple[Axis, ...] = ()

    @property
    def base(self) -> Scenario:
        """The first point's scenario, which names the study."""
        return self.points[0].scenario

    @property
    def runs(self) -> int:
        """Number of runs of the study."""
        return sum(len(point.scenario.seeds) for point in self.points)

    def plain(self) -> dict[str, object]:
        """Return the study as JSON's own types."""
        return {
            "points": [{"name": p.name, "scenario": plain_of(p.scenario)} for p in self.points],
            "axes": [{"setting": a.setting, "values": list(a.values)} for a in self.axes],
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, object]) -> Study:
        """Return the study that :meth:`plain` converted.

        Raises:
            ConfigurationError: the value does not describe a study.
        """
        points = tuple(
            StudyPoint(str(name), scenario_of(_table(scenario, "the scenario of a point")))
            for name, scenario in _entries(plain, "points", "name", "scenario")
        )
        axes = tuple(
            Axis(str(setting), tuple(_list(values, "the values of an axis")))
            for setting, values in _entries(plain, "axes", "setting", "values")
        )
        if not points:
            raise ConfigurationError("this describes a study without scenarios.")
        if math.prod(len(axis.values) for axis in axes) != len(points):
            raise ConfigurationError(
                f"this describes no study: its points (there are {len(points)}) are not one for "
                "each combination of the values on its axes."
            )
        return cls(points, axes)


def _entries(plain: Mapping[str, object], kind: str, *names: str) -> Iterator[list[Any]]:
    """Yield the values of each entry of a list for the given names."""
    for entry in _list(plain.get(kind), f'its list "{kind}"'):
        table = _table(entry, f'an entry of its list "{kind}"')
        missing = [name for name in names if name not in table]
        if missing:
            raise ConfigurationError(
                f'this describes no study: an entry of its list "{kind}" has no "{missing[0]}".'
            )
        yield [table[name] for name in names]


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigurationError(f"this describes no study: {what} is missing or no list.")
    return value


def _table(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"this describes no study: {what} is no table.")
    return value


def study_of(tables: Mapping[str, object], axes: Sequence[Axis] = ()) -> Study:
    """Return the study of all variants of a scenario; without axes it has one point.

    Raises:
        ConfigurationError: a setting or a value does not exist, or the grid is too large.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_POINTS:
        raise ConfigurationError(
            f"the sweep has {count} points, more than {MAX_POINTS}; name fewer values."
        )
    if len({axis.setting for axis in axes}) < len(axes):
        raise ConfigurationError("--sweep names a setting twice; list all its values at once.")
    points = [
        _point(tables, axes, values) for values in itertools.product(*(a.values for a in axes))
    ]
    return Study(tuple(points), tuple(axes))


def _point(
    tables: Mapping[str, object], axes: Sequence[Axis], values: Sequence[Scalar]
) -> StudyPoint:
    varied = dict(tables)
    for axis, value in zip(axes, values, strict=True):
        varied = set_by_name(varied, axis.setting, value)
    scenario = scenario_of(varied)
    name = " ".join(f"{a.setting}={_shown(v)}" for a, v in zip(axes, values, strict=True))
    return StudyPoint(name or scenario.name, scenario)


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_axis(text: str) -> Axis:
    """Read ``SETTING=VALUE,VALUE,...``; commas within parentheses do not separate.

    Raises:
        ConfigurationError: the text has another form.
    """
    setting, equals, listed = text.partition("=")
    values = [parse_value(each) for each in _split(listed)] if listed else []
    if not setting.strip() or not equals or not values:
        raise ConfigurationError(
            f"--sweep {text[:60]} says nothing; write a setting and its values, as in "
            "--sweep nodes=500,1000."
        )
    if len(set(values)) < len(values):
        raise ConfigurationError(f"--sweep {text[:60]} names a value twice; name each once.")
    return Axis(setting.strip(), tuple(values))


def _split(listed: str) -> list[str]:
    depth, parts = 0, [""]
    for character in listed:
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse_value(text: str) -> Scalar:
    """Parse a value of the command line: a number, true, false, or else a text."""
    text = text.strip()
    for read in (int, _finite):
        try:
            return read(text)
        except ValueError:
            continue
    return json.loads(text) if text in ("true", "false") else text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
