"""Report failures of plug-ins with the name of the plug-in and the lines of the failure.

Implementations of the blocks may come from other packages. A failure in one is neither a bug of
this package nor a mistake of the user, so the message names the plug-in and its lines::

    the path selection strategy "mine" (mine.choice:Mine) failed: KeyError: 'x'; traceback:
    choice.py:31 in select, choice.py:12 in _weigh. Fix it, or choose another.
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
    """Return the error for a plug-in whose result its Protocol does not allow."""
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
    """Return the error that names a plug-in, if one of another package raised ``error``.

    A plug-in is named if the traceback contains a line of its module, at any depth.
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
    # Several plug-ins may share a module. One whose class is in the traceback is preferred.
    within = [
        each for each in suspects if any(name.startswith(f"{each[1].attr}.") for _, name in lines)
    ]
    group, entry = (within or suspects)[0]
    return plugin_failure(group, entry.name, inner)


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, str]]:
    """Yield module and qualified name of each function of a traceback."""
    while trace is not None:
        frame = trace.tb_frame
        yield str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname
        trace = trace.tb_next


def _named(group: str, name: str) -> str:
    entry = next((each for each in registered_plugins(group) if each.name == name), None)
    origin = f" ({entry.value})" if entry is not None else ""
    return f'{NOUNS.get(group, "plug-in")} "{name}"{origin}'


def _remedy() -> str:
    return "Fix it, or choose another."


def _is_own(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).parent)
