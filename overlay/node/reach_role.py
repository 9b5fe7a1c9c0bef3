"""Decide which endpoints and roles this node signs, from the tests by other nodes.

::

    published endpoints ──tests──> untested | reachable | not reachable
                                      └── signed ──┘      not signed

    all not reachable ──> all are signed, without roles

Untested endpoints are signed, because a small or private overlay cannot test them. The tests are in
``overlay.dht.reach_tests``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from overlay.addresses import Endpoint, version_of
from overlay.dht.events import ReachChanged, Standing
from overlay.logs import EventLog

__all__ = ["ReachRole"]

_log = EventLog(__name__)


class ReachRole:
    """Decide which endpoints and roles are signed.

    ``standings`` returns the results of the tests of the node's endpoints.
    """

    def __init__(self, standings: Callable[[], Mapping[Endpoint, Standing]]) -> None:
        self._standings = standings

    def offered(self, published: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return the endpoints to sign with roles; empty if all are known to be unreachable."""
        known = self._standings()
        return tuple(each for each in published if known.get(each) is not Standing.UNREACHABLE)

    def report(self, published: Sequence[Endpoint]) -> dict[str, str]:
        """Return the result of the tests for each endpoint, both as text."""
        known = self._standings()
        return {str(each): known.get(each, Standing.UNTESTED).value for each in published}

    def problems(self, published: Sequence[Endpoint]) -> tuple[str, ...]:
        """Return sentences about endpoints that other nodes do not reach, with the remedy."""
        lost = [each for each in published if each not in self.offered(published)]
        if not lost:
            return ()
        ways = " and ".join(way for version in (4, 6) for way in _ways_in(version, lost))
        remedy = (
            f"{ways}, permit it in this host's packet filter, or run as a client with [roles] "
            "relay = false"
        )
        where = ", ".join(map(str, lost))
        if len(lost) == len(published):
            return (
                f"other nodes do not reach this node at {where}, so it offers no role to others "
                f"and works as a client; {remedy}",
            )
        return (
            f"other nodes do not reach this node at {where}, so it is not published there; "
            f"{remedy}",
        )

    def note(self, change: ReachChanged, published: Sequence[Endpoint]) -> None:
        """Log the result of the tests of an endpoint, without its address."""
        version = version_of(change.endpoint)
        if change.standing is Standing.UNREACHABLE:
            serves = bool(self.offered(published))
            _log.warning("reachability.not_reached", version=version, offers_roles=serves)
        else:
            _log.info("reachability.reached", version=version)


def _ways_in(version: int, lost: Iterable[Endpoint]) -> list[str]:
    """Return what the user must do at the router, for the endpoints of an IP version."""
    numbers = sorted({each.port for each in lost if version_of(each) == version})
    if not numbers:
        return []
    ports = " and ".join(f"UDP port {number}" for number in numbers)
    if version == 4:
        return [f"forward {ports} (IPv4) to this node at the router"]
    # A router does not translate IPv6 addresses, but its filter often drops incoming requests.
    return [f"permit {ports} (IPv6) to this node in the router's packet filter"]
