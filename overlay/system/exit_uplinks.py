"""Find the uplinks of an exit, or the reason why there is none.

If a VPN ends, the host's plain default route remains. Circuits do not use it, because the operator
chose that they leave through the VPN. They would otherwise leave with the host's own address.
Circuits can leave again when the VPN is back or the node is restarted.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.exit_probe import probe_address
from overlay.system.exit_problems import ExitProblem, route_problem
from overlay.system.uplinks import SAMPLES, Uplink, Uplinks, find_uplinks

__all__ = ["ExitUplinks"]

_STRICT: Final = errno.EXDEV
"""Error of a route lookup if a strict source check (rp_filter) refuses the packet."""


class ExitUplinks:
    """Uplinks of one exit; ``problems`` and ``ways`` are results of the last :meth:`find`."""

    def __init__(self, device: str, mark: int, given: tuple[str, ...] = ()) -> None:
        """Prepare; if there are ``given`` devices, these are used and routes are ignored."""
        self._device = device
        self._mark = mark
        self._given = given
        self._overriding: dict[int, frozenset[str]] = {}
        self.problems: tuple[ExitProblem, ...] = ()
        self.ways: frozenset[Uplink] = frozenset()

    def find(self, pools: Iterable[IpNetwork]) -> dict[int, tuple[str, ...]]:
        """Return the uplinks by IP version; the keys 4 and 6 always exist.

        Raises:
            BackendError: the routes could not be read.
        """
        found: dict[int, tuple[str, ...]] = {4: self._given, 6: self._given}
        problems: list[ExitProblem] = []
        every: set[Uplink] = set()
        for pool in pools if not self._given else ():
            version = pool.version
            source = probe_address(pool)
            ways = find_uplinks(version, device=self._device, source=source, mark=self._mark)
            every.update(ways.ways)
            problem = self._problem(version, ways, pool)
            problems += [problem] if problem is not None else []
            found[version] = ways.devices if problem is None else ()
        self.problems, self.ways = tuple(problems), frozenset(every)
        return found

    def _problem(self, version: int, ways: Uplinks, pool: IpNetwork) -> ExitProblem | None:
        overriding = frozenset(way.device for way in ways.ways if way.overriding)
        if overriding:
            self._overriding[version] = overriding
        before = self._overriding.get(version)
        if ways.ways and before is not None and not overriding:
            return ExitProblem(
                version,
                "vpn_gone",
                f"circuits left this host over {', '.join(sorted(before))}, a VPN or a routing "
                f"table of its own, whose routes over IPv{version} have gone",
                f"start it again, or restart the node to let circuits leave over "
                f"{', '.join(ways.devices)}",
            )
        if ways.error == _STRICT:
            return _strict_problem(version, self._device)
        return route_problem(version, ways, _question(version, self._device, pool, self._mark))


def _question(version: int, device: str, pool: IpNetwork, mark: int) -> str:
    flag = "-6 " if version == 6 else ""
    return (
        f"ip {flag}route get {SAMPLES[version][0]} from {probe_address(pool)} iif {device} "
        f"mark {mark:#x}"
    )


def _strict_problem(version: int, device: str) -> ExitProblem:
    return ExitProblem(
        version,
        "source_check",
        f"a strict source check refuses what comes out of {device}, because a routing rule leads "
        "answers elsewhere",
        f"loosen it with: sysctl -w net.ipv4.conf.all.rp_filter=2 "
        f"net.ipv4.conf.{device}.rp_filter=2",
    )
