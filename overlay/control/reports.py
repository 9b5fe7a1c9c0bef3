"""Convert reports to and from plain JSON according to the types of their dataclass fields."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from overlay.control.service import HopReport, PathReport, PeerReport, StatusReport, StopReport
from overlay.errors import Malformed

__all__ = ["Report", "decode_report", "encode_report"]

Report = StatusReport | PeerReport | PathReport | HopReport | StopReport

R = TypeVar("R", bound=Report)


def encode_report(report: Report) -> dict[str, object]:
    """Return a report as plain values for :mod:`json`, which writes tuples as arrays."""
    return dataclasses.asdict(report)


def decode_report(report_type: type[R], value: object) -> R:
    """Return a report from plain JSON. Fields that this version does not know are ignored.

    Raises:
        Malformed: a field is missing, has another type or is out of range.
    """
    if not isinstance(value, dict):
        raise Malformed("a report must be a JSON object.")
    fields = {}
    for name, kind in typing.get_type_hints(report_type).items():
        if name not in value:
            raise Malformed(f"a report lacks {name}.")
        fields[name] = _decode(kind, value[name], name)
    return report_type(**fields)


def _decode(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - types as data
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        if value is None:
            return None
        return _decode(typing.get_args(kind)[0], value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(typing.get_args(kind)[0], item, name) for item in value)
    if origin is dict and isinstance(value, dict):
        of = typing.get_args(kind)[1]
        return {key: _decode(of, item, name) for key, item in value.items()}
    if kind is HopReport:
        return decode_report(HopReport, value)
    if kind is float and type(value) in (int, float):
        return _finite(value, name)
    if type(value) is not kind:
        raise Malformed(f"a report's {name} has a wrong type.")
    return value


def _finite(value: float, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Malformed(f"a report's {name} is out of range.")
    return number
