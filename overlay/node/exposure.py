"""Determine which destinations are not protected now, so that the user is warned."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from overlay.addresses import IpNetwork
from overlay.node.shells.source_kill_switch import UnprotectedDestinations
from overlay.paths.ip_versions import BLOCKED_FAMILY
from overlay.paths.protection import prefixes_of
from overlay.paths.requested_path import PathTerms
from overlay.system.kill_switch_state import EGRESS, FILTER, ROUTES, RULES

__all__ = ["exposed", "exposed_versions"]

_REMOVED: Final = "another program removed all that blocks them, and it cannot be put back now."


def exposed(
    unprotected: UnprotectedDestinations, missing: Collection[str], all_terms: Iterable[PathTerms]
) -> UnprotectedDestinations:
    """Return the prefixes to which packets can leave in the clear.

    All prefixes are exposed if the packet filter, traffic control, and the rules or routes are
    missing: each of the three blocks packets on its own (docs/decisions/0036).

    Args:
        unprotected: the destinations that the kill switch could not block.
        missing: names of missing kernel state.
        all_terms: the terms of all paths.
    """
    no_filter = FILTER in missing and any(each.startswith(EGRESS) for each in missing)
    if no_filter and (RULES in missing or ROUTES in missing):
        return UnprotectedDestinations(
            frozenset(prefixes_of(all_terms)), unprotected.reason or _REMOVED
        )
    return unprotected


def exposed_versions(prefixes: Collection[IpNetwork]) -> set[int]:
    """Return the IP versions to be blocked as a whole of which at least one prefix is exposed."""
    return {
        version
        for version, block in BLOCKED_FAMILY.items()
        if any(prefix in prefixes for prefix in block)
    }
