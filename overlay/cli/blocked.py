"""Messages about destinations that stay blocked, and about destinations that were unblocked."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.cli.answers import CommandOutput
from overlay.control.service import StopReport
from overlay.plurals import counted

__all__ = ["closed_answer", "freed_text", "kept_text", "stop_text"]

_HOW_TO_FREE = 'unblock with "overlay stop --release" or "overlay path close --all"'


def kept_text(blocked: int) -> str:
    """Return the message about ``blocked`` destinations after a node stops; "" if it is 0."""
    if not blocked:
        return ""
    verb = "stays" if blocked == 1 else "stay"
    return f"{_destinations(blocked)} {verb} blocked until the node runs again; {_HOW_TO_FREE}."


def stop_text(report: StopReport, *, release: bool) -> str:
    """Return the message about the destinations of a node that stops."""
    if not release:
        return " ".join(each for each in (kept_text(report.blocked), _open_text(report)) if each)
    freed = f"Freed {_destinations(report.released)}: packets leave directly again."
    freed += _versions_text(report.unblocked_versions)
    if report.permanent:
        freed += f" {_returning(report.permanent)}"
    if report.blocked:
        freed += f" {_destinations(report.blocked)} could not be freed and stay blocked; try again."
    return freed


def closed_answer(closed: int, permanent: int, unblocked: Sequence[str] = ()) -> CommandOutput:
    """Return the output after ``closed`` paths were closed.

    Args:
        closed: number of paths.
        permanent: number of these paths that the node opens again at its next start.
        unblocked: IP versions, such as "IPv6", that were blocked as a whole until now.
    """
    text = f"Closed {counted(closed, 'path')}.{_versions_text(unblocked)}"
    if permanent:
        text += f" {_returning(permanent)}"
    plain = {"closed": closed, "permanent": permanent, "unblocked_versions": list(unblocked)}
    return CommandOutput(text, plain)


def freed_text(count: int, versions: Sequence[str]) -> str:
    """Return the message after ``count`` destinations were unblocked while no node runs."""
    if not count and not versions:
        return "No node runs, and nothing is blocked."
    text = "No node runs."
    if count:
        text += f" Freed {_destinations(count)} that a node had left blocked."
    return text + _versions_text(versions)


def _versions_text(versions: Sequence[str]) -> str:
    if not versions:
        return ""
    verb = "is" if len(versions) == 1 else "are"
    return f" {' and '.join(versions)} {verb} no longer blocked as a whole."


def _open_text(report: StopReport) -> str:
    if not report.unprotected:
        return ""
    verb = "is" if report.unprotected == 1 else "are"
    return (
        f"{_destinations(report.unprotected)} {verb} NOT blocked, because the kill switch could "
        "not be set."
    )


def _returning(permanent: int) -> str:
    verb = "is" if permanent == 1 else "are"
    return (
        f"{_destinations(permanent)} {verb} listed in [paths] permanent and will be blocked and "
        "opened again at the next start."
    )


def _destinations(count: int) -> str:
    return counted(count, "destination")
