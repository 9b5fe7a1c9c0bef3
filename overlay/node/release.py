"""Show and release destinations that stay blocked although no node runs.

A node that stopped or was killed leaves destinations blocked. The user can release them without
starting another node. This needs the same rights as blocking them.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpNetwork
from overlay.config import Configuration
from overlay.errors import BackendError
from overlay.logs import EventLog
from overlay.node.path_file import PathFile
from overlay.node.shells.operating_system import LinuxOperatingSystem, OperatingSystem
from overlay.paths.ip_versions import BLOCKED_FAMILY, split_leftovers
from overlay.paths.protection import prefixes_of
from overlay.paths.requested_path import PathTerms
from overlay.system.kill_switch import KILL_SWITCH_TABLE
from overlay.system.ownership import LOCK_PREFIX
from overlay.system.rtnetlink import RouteKind, Rtnetlink

__all__ = ["Freed", "blocked_here", "free_blocked", "kill_switch_is_owned"]

_log = EventLog(__name__)

_MARKERS: Final = frozenset(block[0] for block in BLOCKED_FAMILY.values())


@dataclass(frozen=True, slots=True)
class Freed:
    """Released destinations, and how many of them the configuration lists.

    ``versions`` are IP versions that were blocked as a whole and were released.
    """

    destinations: tuple[IpNetwork, ...]
    permanent: int
    versions: tuple[int, ...] = ()


def blocked_here() -> list[IpNetwork]:
    """Return the destinations that this host's kernel blocks or carries.

    This needs no rights and changes nothing. If the kernel does not answer, the result is empty.
    :func:`free_blocked` also finds destinations that only the packet filter still blocks.
    """
    try:
        with Rtnetlink() as routes:
            installed = routes.routes(KILL_SWITCH_TABLE)
    except BackendError:
        return []
    prefixes = [r.destination for r in installed if r.kind is RouteKind.UNREACHABLE]
    return split_leftovers(prefixes)[0]


def kill_switch_is_owned() -> bool:
    """Tell whether a running node on this host owns the kill switch; this needs no rights."""
    try:
        return socket.if_nametoindex(f"{LOCK_PREFIX}guard-{KILL_SWITCH_TABLE}") > 0
    except OSError:
        return False


def free_blocked(
    configuration: Configuration,
    only: Collection[IpNetwork] | None = None,
    host: OperatingSystem | None = None,
) -> Freed:
    """Release destinations that a node left blocked here, and remove their paths from the disk.

    Args:
        configuration: of the node; it names the state directory.
        only: the destinations; None releases everything that is blocked or remembered.
        host: the operating system; Linux unless a test has another.

    Raises:
        BackendError: a node runs here, this user may not change routes and filters, or the file
            of paths cannot be written.
    """
    host = host or LinuxOperatingSystem()
    file = PathFile.of(configuration)
    kill_switch = host.open_kill_switch()
    try:
        protected, all_terms = kill_switch.protected(), file.load()
        needed = set() if only is None else _needed(protected, all_terms, only)
        free = [prefix for prefix in protected if prefix not in needed]
        # The first prefix of a blocked version marks it as blocked, so these go last.
        free.sort(key=lambda prefix: prefix in _MARKERS)
        if free or not needed:  # also without prefixes, so that an empty table is removed
            kill_switch.release(*free)
        if all_terms:
            file.save([terms for terms in all_terms if terms.destination in needed])
    finally:
        kill_switch.close()
    destinations, versions = split_leftovers(protected)
    known = dict.fromkeys([*destinations, *(terms.destination for terms in all_terms)])
    freed = tuple(destination for destination in known if destination not in needed)
    unblocked = tuple(sorted(v for v in versions if BLOCKED_FAMILY[v][0] not in needed))
    if freed:
        _log.info("kill_switch.freed", destinations=len(freed))
    for version in unblocked:
        _log.info("kill_switch.version_unblocked", ip_version=version)
    return Freed(freed, sum(each in configuration.paths.permanent for each in freed), unblocked)


def _needed(
    protected: list[IpNetwork], all_terms: list[PathTerms], freed: Collection[IpNetwork]
) -> set[IpNetwork]:
    """Return the prefixes that stay blocked when only some destinations are released."""
    kept = [terms for terms in all_terms if terms.destination not in freed]
    destinations = split_leftovers(protected)[0]
    others = {destination for destination in destinations if destination not in freed}
    needed = others | set(prefixes_of(kept))
    if others - {terms.destination for terms in kept}:
        # For these it is not known whether they need the other IP version blocked.
        needed |= set(protected) - set(destinations)
    return needed
