"""Failures of plug-ins: named as theirs, with the lines where they happened.

Implementations of the blocks may come from other packages. What goes wrong in one is neither a bug
of this package nor a mistake of the user, so the sentence names the plug-in and its lines::

    the path selection strategy "mine" (mine.choice:Mine) failed: KeyError: 'x'; traceback:
    choice.py:31 in select, choice.py:12 in _weigh. Mend it, or choose another.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from overlay.errors import InternalError, OverlayError, PluginError
from overlay.plugins import NOUNS, registered_plugins

__all__ = ["blamed_plugin", "broken_contract", "plugin_failure"]

_MOST_FRAMES: Final = 6
_MOST_CHARACTERS: Final = 200
_OWN_PACKAGES: Final = ("overlay", "sims")


def broken_contract(group: str, name: str, how: str) -> PluginError:
    """Return the error for a plug-in that returned what its Protocol does not allow."""
    return PluginError(f"the {_named(group, name)} broke its contract: {how}. {_remedy()}")


def plugin_failure(group: str, name: str, error: BaseException) -> PluginError:
    """Return the error for an exception that a plug-in raised; raise it ``from error``."""
    text = f"{type(error).__name__}: {str(error)[:_MOST_CHARACTERS]}".rstrip(": ")
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not _is_own(frame.filename)
    ]
    where = f"; traceback: {', '.join(frames[-_MOST_FRAMES:])}" if frames else ""
    return PluginError(f"the {_named(group, name)} failed: {text}{where}. {_remedy()}")


def blamed_plugin(error: BaseException) -> PluginError | None:
    """Return the error that blames a plug-in, if one of another package raised ``error``.

    It is blamed if a line of its module is on the way to the error, however deep below.
    """
    if isinstance(error, OverlayError) and not isinstance(error, InternalError):
        return None
    inner = error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
    lines = list(_lines(inner.__traceback__))
    suspects = [
        (group, entry)
        for group in NOUNS
        for entry in registered_plugins(group)
        if entry.module.partition(".")[0] not in _OWN_PACKAGES
        and any(module == entry.module for module, _ in lines)
    ]
    if not suspects:
        return None
    # Several plug-ins may share a module: the one whose class has a line in it goes first.
    within = [
        each for each in suspects if any(name.startswith(f"{each[1].attr}.") for _, name in lines)
    ]
    group, entry = (within or suspects)[0]
    return plugin_failure(group, entry.name, inner)


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, str]]:
    """Yield module and qualified name of the functions on the way to an error."""
    while trace is not None:
        frame = trace.tb_frame
        yield str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname
        trace = trace.tb_next


def _named(group: str, name: str) -> str:
    entry = next((each for each in registered_plugins(group) if each.name == name), None)
    origin = f" ({entry.value})" if entry is not None else ""
    return f'{NOUNS.get(group, "plug-in")} "{name}"{origin}'


def _remedy() -> str:
    return "Mend it, or choose another."


def _is_own(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).parent)
