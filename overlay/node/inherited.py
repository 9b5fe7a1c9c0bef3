"""Find the paths that a starting node restores, and block their destinations first.

::

    paths.json ───────────────┐
    [paths] permanent ────────┼─> kill switch, before sockets are opened ─> paths are rebuilt
    kill switch in the kernel ┘
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from overlay.addresses import IpNetwork
from overlay.config import Configuration
from overlay.errors import BackendError, ConfigurationError
from overlay.logs import EventLog, Word
from overlay.node.path_file import PathFile
from overlay.node.shells.operating_system import OperatingSystem
from overlay.paths.destinations import check_destination
from overlay.paths.ip_versions import other_version, split_leftovers
from overlay.paths.protection import prefixes_of
from overlay.paths.requested_path import PathTerms

__all__ = ["Inherited", "block_first", "inherited", "permanent_terms", "remembered"]

_log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class Inherited:
    """Paths to restore, and IP versions that are blocked although no path needs that."""

    all_terms: tuple[PathTerms, ...]
    blocked: frozenset[int] = frozenset()


def remembered(file: PathFile, configuration: Configuration) -> list[PathTerms]:
    """Return the terms of the paths to restore: those in the file and the permanent ones.

    An entry whose destination no path may have is left out and counted as damaged.

    Raises:
        BackendError: the file cannot be read.
    """
    pools = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
    found: dict[IpNetwork, PathTerms] = {}
    for terms in file.load():
        try:
            check_destination(terms.destination, own_addresses=(), inner_networks=pools)
        except ConfigurationError:
            file.damaged += 1
            continue
        found[terms.destination] = terms
    for terms in permanent_terms(configuration):
        found.setdefault(terms.destination, terms)
    if file.damaged:
        _log.warning("paths.damaged_entries_set_aside", entries=file.damaged)
    return list(found.values())


def permanent_terms(configuration: Configuration) -> list[PathTerms]:
    """Return the terms of the paths in ``[paths] permanent``."""
    permanent = configuration.paths.permanent
    # As in a request: with destinations of both IP versions, neither version is blocked as a whole.
    single = len({destination.version for destination in permanent}) == 1
    both = configuration.paths.both_versions and single
    return [_default_terms(configuration, each, both_versions=both) for each in permanent]


def block_first(host: OperatingSystem, all_terms: Collection[PathTerms]) -> bool:
    """Block the destinations of remembered paths, before any other step of the start.

    Later steps may fail (a port in use, a missing device), and the destinations must be blocked
    then. The kill switch is released by this process at once, so that the backend can open it; the
    kernel keeps it. A failure is logged, and the node tries again while it runs.

    Returns:
        Whether the destinations are blocked.
    """
    if not all_terms:
        return True
    try:
        kill_switch = host.open_kill_switch()
        try:
            kill_switch.protect(*prefixes_of(all_terms))
        finally:
            kill_switch.close()
    except BackendError as error:
        # The node starts all the same, because only a running node can try to block them again.
        _log.error("kill_switch.not_protected", destinations=len(all_terms), reason=Word(error))
        return False
    return True


def inherited(
    all_terms: Collection[PathTerms], leftovers: Collection[IpNetwork], configuration: Configuration
) -> Inherited:
    """Return all paths to restore, including those that only the kernel remembers.

    Args:
        all_terms: the terms that :func:`remembered` returned.
        leftovers: prefixes that the kernel protects. For a prefix without terms only the
            destination is known, so its path gets the configured hops and strategy.
        configuration: has hops, strategy and permanent paths.
    """
    known = {terms.destination for terms in all_terms}
    destinations, blocked = split_leftovers([prefix for prefix in leftovers if prefix not in known])
    found = list(all_terms)
    for destination in destinations:
        both = other_version(destination.version) in blocked or configuration.paths.both_versions
        found.append(_default_terms(configuration, destination, both_versions=both))
    needed = {other_version(w.destination.version) for w in found if w.both_versions}
    return Inherited(tuple(found), frozenset(blocked - needed))


def _default_terms(
    configuration: Configuration, destination: IpNetwork, *, both_versions: bool
) -> PathTerms:
    selection = configuration.selection
    return PathTerms(destination, selection.hops, selection.strategy, both_versions=both_versions)
