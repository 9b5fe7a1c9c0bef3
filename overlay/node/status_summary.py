"""The first lines of ``overlay status``: what works, what does not, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from overlay.control.service import PathReport, StatusReport
from overlay.node.unjoined import LEARNING_S
from overlay.plurals import counted

__all__ = ["judged"]

_AT_ONCE_S: Final = 0.5
"""An attempt that follows sooner is said to be made now."""

_HEARD: Final = "dht_datagrams_received"
_UNWRITTEN: Final = "path_file_not_written"

_MOST_PATHS: Final = 3
"""Paths whose trouble the verdict explains; ``overlay path list`` has all of them."""


def judged(
    report: StatusReport, paths: Sequence[PathReport], bootstrap: Sequence[str]
) -> StatusReport:
    """Return the report with its verdict: a short paragraph, the worst trouble first.

    Args:
        report: how the node is; its own ``verdict`` does not matter.
        paths: all paths of the user.
        bootstrap: endpoints that the node joins through, as text.
    """
    troubles = [
        *_exposed(report),
        *(f"No exit: {_sentence(problem)}" for problem in report.exit_problems),
        *_membership(report, bootstrap),
        *_paths(paths),
    ]
    works = _works(report, paths, well=not troubles)
    verdict = " ".join([*troubles, works, *_notes(report)])
    return replace(report, verdict=verdict, works=not troubles)


def _exposed(report: StatusReport) -> Iterable[str]:
    if report.unprotected:
        because = f", because {report.unprotected_reason}" if report.unprotected_reason else ""
        yield _sentence(
            f"NOT PROTECTED: packets to {_listed(report.unprotected)} can leave directly{because}"
        )
    elif report.protection:
        yield (
            f"The protection of destinations is not complete: {_listed(report.protection)}. The "
            "node tries to repair it. For the cause, run: overlay doctor."
        )


def _membership(report: StatusReport, bootstrap: Sequence[str]) -> Iterable[str]:
    if not (report.joined and report.mix_nodes):
        yield from (f"Network: {_sentence(problem)}" for problem in report.network_problems)
    if not report.joined:
        yield f"This node has not joined the overlay: {_not_joined(report, bootstrap)}"
    elif not report.mix_nodes:
        what = "it is still learning of Mix-nodes; wait a few seconds."
        if report.uptime_s >= LEARNING_S:
            what = "none of the nodes that it found offers to carry circuits; wait for more."
        yield f"This node has joined the overlay, but has no path yet: {what}"
    elif not report.exits and not report.exit_problems and not _is_only_exit(report):
        yield (
            "No Mix-node that this node knows is an exit, so no path can be opened; wait for one, "
            "or ask an operator."
        )


def _is_only_exit(report: StatusReport) -> bool:
    return bool(report.joined and report.mix_nodes and not report.exits and "exit" in report.roles)


def _not_joined(report: StatusReport, bootstrap: Sequence[str]) -> str:
    strangers = report.drops.get("dht_other_network", 0)
    if strangers:
        return (
            f"{counted(strangers, 'packet')} of another overlay arrived, so compare [network] "
            f'network_id ("{report.network_id}" here) with that of the bootstrap node.'
        )
    if report.contacts:
        return "a bootstrap node answered, and the node is looking around; wait a few seconds."
    unable = _versions_without_socket(report, bootstrap)
    if unable:
        wildcard = "[::]:4500" if unable == "IPv6" else "0.0.0.0:4500"
        return (
            f"{_listed(bootstrap)} {'has' if len(bootstrap) == 1 else 'have'} only {unable}, and "
            f'this node listens on no {unable} address; add "{wildcard}" to [network] listen.'
        )
    if not bootstrap and report.counters.get(_HEARD):
        return (
            "no node that it knew answers any more; check this host's network, or name a node that "
            'runs with "overlay up --bootstrap ADDRESS:PORT".'
        )
    if not bootstrap:
        return 'it knows no other node; name one with "overlay up --bootstrap ADDRESS:PORT".'
    if report.uptime_s < LEARNING_S:
        return f"it waits for an answer of {_listed(bootstrap)}."
    verb = "does" if len(bootstrap) == 1 else "do"
    return (
        f"{_listed(bootstrap)} {verb} not answer; check the address, that the other side has the "
        f'network_id "{report.network_id}" too, both clocks (date -u), and that UDP passes. For '
        "what this host lacks, run: overlay doctor."
    )


def _versions_without_socket(report: StatusReport, bootstrap: Sequence[str]) -> str:
    """Return the IP version of all bootstrap nodes if this node does not listen on it, else ""."""
    versions = {_version(each) for each in bootstrap}
    missing = versions - {_version(each) for each in report.listen}
    return next(iter(missing)) if report.listen and len(versions) == 1 and missing else ""


def _version(endpoint: str) -> str:
    return "IPv6" if endpoint.startswith("[") else "IPv4"


def _paths(paths: Sequence[PathReport]) -> Iterable[str]:
    ill = [path for path in paths if path.state != "open"]
    for path in ill[:_MOST_PATHS]:
        why = f", because {path.trouble}" if path.trouble else ""
        yield f"Path {path.number} is {path.state}{why}; {_going_on(path)}."
    if len(ill) > _MOST_PATHS:
        more = len(ill) - _MOST_PATHS
        are = "path is" if more == 1 else "paths are"
        yield f"{more} more {are} not open; see: overlay path list."


def _going_on(path: PathReport) -> str:
    if path.state == "closing":
        return "the host has not released the destination yet, and the node tries again"
    if path.next_try_s is not None and path.next_try_s >= _AT_ONCE_S:
        return f"the next attempt follows in {path.next_try_s:.0f} s"
    return "a circuit is being built now"


def _works(report: StatusReport, paths: Sequence[PathReport], *, well: bool) -> str:
    """Return what works at present."""
    works = []
    if report.joined:
        works.append(
            f"it has joined the overlay ({counted(report.contacts, 'contact')}, "
            f"{counted(report.mix_nodes, 'Mix-node')}, {counted(report.exits, 'exit')})"
        )
    carried = sum(path.state == "open" for path in paths)
    if carried:
        works.append(_open_paths(carried, len(paths)))
    if not works:
        return "Nothing can be carried until then."
    lead = "This node works" if well else "What works"
    what = " and ".join(works)
    hint = "" if paths or not well else "; open a path with: overlay path open DESTINATION"
    return f"{lead}: {what}{hint}."


def _open_paths(carried: int, count: int) -> str:
    if count == 1:
        return "its path is open"
    return f"{carried} of {count} paths {'is' if carried == 1 else 'are'} open"


def _notes(report: StatusReport) -> Iterable[str]:
    """Return what limits the node although it works, such as the lack of a public address."""
    if _is_only_exit(report):
        yield (
            "Note: this node is the only exit that it knows, so it carries paths of other nodes "
            "but has none itself."
        )
    if report.counters.get(_UNWRITTEN):
        yield (
            "Note: the paths cannot be written to the state directory, so their destinations are "
            "not blocked after a reboot; look for a full disk with: df, and for missing rights "
            "with: overlay doctor."
        )
    if report.joined and report.mix_nodes:
        yield from (f"Note: {_sentence(problem)}" for problem in report.network_problems)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
