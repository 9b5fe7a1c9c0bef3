"""Sentences about destinations that stay blocked, or are free again."""

from __future__ import annotations

from overlay.cli.answers import Answer
from overlay.control.model import StopReport

__all__ = ["closed_answer", "counted", "kept_text", "stop_text"]

_HOW_TO_FREE = 'to free them: "overlay stop --release" or "overlay path close --all"'


def counted(number: int, what: str = "destination") -> str:
    """Return a number with its noun, as in "2 destinations"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def kept_text(blocked: int) -> str:
    """Return what a node that ended leaves behind; empty if it is nothing."""
    if not blocked:
        return ""
    verb = "stays" if blocked == 1 else "stay"
    return f"{counted(blocked)} {verb} blocked until the node runs again; {_HOW_TO_FREE}."


def stop_text(report: StopReport, *, release: bool) -> str:
    """Return what a stopping node leaves behind."""
    if not release:
        return kept_text(report.blocked)
    freed = f"Freed {counted(report.released)}: packets leave directly again."
    if report.permanent:
        freed += f" {_returning(report.permanent)}"
    if report.blocked:
        freed += f" {counted(report.blocked)} could not be freed and stay blocked; try again."
    return freed


def closed_answer(closed: int, permanent: int) -> Answer:
    """Return what was closed; ``permanent`` of them return at the next start."""
    text = f"Closed {counted(closed, 'path')}."
    if permanent:
        text += f" {_returning(permanent)}"
    return Answer(text, {"closed": closed, "permanent": permanent})


def _returning(permanent: int) -> str:
    verb = "is" if permanent == 1 else "are"
    return (
        f"{counted(permanent)} {verb} listed in [paths] permanent and will be blocked and opened "
        "again at the next start."
    )
