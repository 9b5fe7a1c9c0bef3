"""Which destinations are not protected at this moment, and why, as the user must be told."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from overlay.addresses import IpNetwork
from overlay.node.ip_versions import BLOCKED_FAMILY
from overlay.node.protection import prefixes_of
from overlay.node.requested_path import PathTerms
from overlay.node.source_kill_switch import UnprotectedDestinations
from overlay.system.kill_switch_state import EGRESS, FILTER, ROUTES, RULES

__all__ = ["exposed", "exposed_versions"]

_REMOVED: Final = "another program removed all that blocks them, and it cannot be put back now."


def exposed(
    unguarded: UnprotectedDestinations, missing: Collection[str], wishes: Iterable[PathTerms]
) -> UnprotectedDestinations:
    """Return the prefixes to which packets can leave in the clear.

    Args:
        unguarded: what the guard could not block.
        missing: names of what the kernel does not hold; without any wall nothing is blocked.
        wishes: the paths.
    """
    no_filter = FILTER in missing and any(each.startswith(EGRESS) for each in missing)
    if no_filter and (RULES in missing or ROUTES in missing):
        return UnprotectedDestinations(frozenset(prefixes_of(wishes)), unguarded.reason or _REMOVED)
    return unguarded


def exposed_versions(prefixes: Collection[IpNetwork]) -> set[int]:
    """Return the IP versions that shall be blocked as a whole, of which a prefix is exposed."""
    return {
        version
        for version, block in BLOCKED_FAMILY.items()
        if any(prefix in prefixes for prefix in block)
    }
