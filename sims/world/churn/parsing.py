"""Parse session models, as written on command lines and in scenario files.

::

    kad2007                                     a preset
    weibull(169.5min, 0.615)                    sessions; a new node replaces a departed one
    exponential(1h) / exponential(1h)           sessions / absences
    pareto(30min, 2.1) / fixed(10min)           scale and shape / length
    trace(sessions.csv)                         the lengths of a file, sessions and absences
    trace(sessions.csv) / exponential(2h)       only its sessions

Weibull and Pareto take scale and shape, the exponential its mean. Lengths of time carry a
unit: ms, s, m or min, h or d. Sessions last a second or more in the mean, and neither they nor
absences more than 100 years.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from overlay import durations
from overlay.errors import ConfigurationError
from sims.world.churn.lifetimes import Exponential, Fixed, Lifetimes, Observed, Pareto, Weibull
from sims.world.churn.session_models import PRESETS, SessionModel
from sims.world.churn.trace import Trace, read_trace

__all__ = ["parse_duration", "parse_model"]

_CALL: Final = re.compile(r"([a-z]{1,20})\(((?:[^()]|\([^()]*\)){1,4096})\)")
"""A path may contain pairs of parentheses, as in trace(results (1)/sessions.csv)."""
_MAX_TEXT: Final = 8192
_LEAST_MEAN_S: Final = 1.0
"""With shorter sessions, nodes would leave before they have joined."""

_MOST_MEAN_S: Final = 100 * 365.25 * 86400.0


def parse_duration(text: str) -> float:
    """Return a duration such as ``90min`` in seconds.

    Raises:
        ConfigurationError: the text is not a number with a unit.
    """
    seconds = durations.parse_duration(text)
    if seconds is None or text.lstrip().startswith("-"):
        raise ConfigurationError(
            f"{text!r} is not a length of time; write a number with ms, s, m or min, h or d, as "
            "in 90min."
        )
    return seconds


def parse_model(text: str, directory: Path | None = None) -> SessionModel:
    """Parse the text of a session model.

    Args:
        text: a text as the module describes.
        directory: start of relative paths of traces; None means the working directory.

    Raises:
        ConfigurationError: the text is wrong; the message says what to write instead.
    """
    name = text.strip()
    if name in PRESETS:
        return PRESETS[name]
    sessions, slash, absences = _halves(name[:_MAX_TEXT])
    trace = _trace(sessions, directory)
    if trace is not None and not slash:
        return _model(name, lambda: (Observed(trace.sessions_s), _absences_of(trace)))
    on = Observed(trace.sessions_s) if trace is not None else None
    return _model(
        name,
        lambda: (on or _lifetimes(sessions, name), _lifetimes(absences, name) if slash else None),
    )


def _halves(text: str) -> tuple[str, str, str]:
    """Split sessions and absences at the first slash outside of parentheses."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "/" and depth == 0:
            return text[:place], "/", text[place + 1 :]
    return text, "", ""


def _model(name: str, build: Callable[[], tuple[Lifetimes, Lifetimes | None]]) -> SessionModel:
    try:
        on, off = build()
        _check_means(on, off)
    except ValueError as error:
        raise ConfigurationError(f"The session model {name!r} is impossible: {error}.") from error
    return SessionModel(name, on, off)


def _check_means(on: Lifetimes, off: Lifetimes | None) -> None:
    for name, lifetimes in (("sessions", on), ("absences", off)):
        if lifetimes is not None and not _mean_s(lifetimes) <= _MOST_MEAN_S:
            raise ValueError(
                f"its {name} last more than 100 years in the mean; write shorter ones, or a "
                "larger shape"
            )
    if on.mean() < _LEAST_MEAN_S:
        raise ValueError(
            f"its sessions last {on.mean():.3g} s in the mean, too short to join in; write "
            f"lengths whose mean is at least {_LEAST_MEAN_S:g} s"
        )


def _mean_s(lifetimes: Lifetimes) -> float:
    try:
        return lifetimes.mean()
    except OverflowError:  # the mean of a Weibull with a tiny shape exceeds the float range
        return math.inf


def _absences_of(trace: Trace) -> Lifetimes | None:
    return Observed(trace.absences_s) if trace.absences_s else None


def _trace(text: str, directory: Path | None) -> Trace | None:
    match = _CALL.fullmatch(text.strip())
    if match is None or match[1] != "trace":
        return None
    return read_trace((directory or Path()) / match[2].strip())


def _lifetimes(text: str, whole: str) -> Lifetimes:
    match = _CALL.fullmatch(text.strip())
    build = _BUILDERS.get(match[1]) if match else None
    if match is None or build is None:
        raise ConfigurationError(
            f"{whole!r} is no session model; write one of {', '.join(PRESETS)}, or "
            "weibull(scale, shape), pareto(scale, shape), exponential(mean), fixed(length) or "
            "trace(file), each perhaps with / and one of those lengths for the absences, which no "
            "trace can give alone."
        )
    arguments = [argument.strip() for argument in match[2].split(",")]
    count, make = build
    if len(arguments) != count:
        raise ConfigurationError(
            f"{match[1]} in the session model {whole!r} takes {count} "
            f"value{'s' if count > 1 else ''}, not {len(arguments)}."
        )
    return make(arguments)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is not a number; a shape is written as in weibull(2h, 0.6)."
        ) from None


_BUILDERS: Final[Mapping[str, tuple[int, Callable[[list[str]], Lifetimes]]]] = {
    "weibull": (2, lambda given: Weibull(parse_duration(given[0]), _number(given[1]))),
    "pareto": (2, lambda given: Pareto(parse_duration(given[0]), _number(given[1]))),
    "exponential": (1, lambda given: Exponential(parse_duration(given[0]))),
    "fixed": (1, lambda given: Fixed(parse_duration(given[0]))),
}
