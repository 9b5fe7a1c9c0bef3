"""The walls of the guard of destinations in the kernel: set, compared with it, and put back.

They know no path. :class:`~overlay.system.kill_switch.KillSwitch` tells which routes
shall be there, and everything else follows from these.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.system.egress_filter import MAX_PRIORITY, EgressFilter
from overlay.system.hidden_addresses import HiddenAddresses
from overlay.system.host_events import HostEvent
from overlay.system.kept_table import KeptTable
from overlay.system.kill_switch_egress import guard_programs
from overlay.system.link_networks import LinkNetworks
from overlay.system.marks import ANSWER_MARK, ANSWER_MASK, STAND_INS
from overlay.system.packet_filter import FilterTable, PacketFilter
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink, device_names
from overlay.system.stand_in_ways import StandInWays

__all__ = ["EGRESS", "FILTER", "ROUTES", "RULES", "KillSwitchRules"]

RULES: Final = "routing rules"
ROUTES: Final = "routes"
FILTER: Final = "packet filter"
EGRESS: Final = "traffic control"

_THROW_METRIC: Final = 1

_MOST_NAMED: Final = 3
"""Devices that are named in a line of the status."""

_MOST_FORMER: Final = 64
"""Inner addresses of former circuits; a packet that waits for ARP is given up after 3 s."""

Routes = Mapping[Route, int | None]
"""The routes that shall be there, each with the program of a ``rerouted`` one."""

ProgramsOf = Callable[[str], tuple[bytes, ...]]
"""Returns a device's programs, by its name."""

_log = EventLog(__name__)


class KillSwitchRules:
    """Rules, routes, packet filter and traffic control of one guard.

    ``enforced`` tells whether this process has set the filters.
    """

    def __init__(self, name: str, mark: int, rule: MarkRule, packet_filter: PacketFilter) -> None:
        """Prepare; nothing is changed.

        Args:
            name: of the packet filter's table.
            mark: firewall mark of the node's own datagrams.
            rule: leads to the routing table; of either IP version.
            packet_filter: the host's.

        Raises:
            BackendError: there is no netlink.
        """
        self.name = name
        self.mark = mark
        self._rule = rule
        self._filter = packet_filter
        self._kept = KeptTable(packet_filter)
        priority = rule.table if 0 < rule.table <= MAX_PRIORITY else MAX_PRIORITY
        self._egress = EgressFilter(priority)
        self._egress_refused: dict[str, str] = {}
        self._bypassed: tuple[str, ...] = ()
        # The upper bits, which are 0 in a mark, tell the rules of several guards from one another.
        own_bits = rule.table << ANSWER_MASK.bit_length() & 0xFFFFFFFF
        self._hidden = HiddenAddresses(ANSWER_MARK, ANSWER_MASK | own_bits, rule.preference)
        self._held: tuple[IpAddress, ...] = ()
        self._former: dict[IpAddress, None] = {}
        self._compiled: tuple[object, ProgramsOf] = (None, lambda _: ())
        self._netlink = Rtnetlink()
        self._on_link = LinkNetworks(self._netlink)
        self._ways = StandInWays(self._netlink)

    @property
    def enforced(self) -> bool:
        """Whether this process has set the filters."""
        return self._kept.installed

    @property
    def former(self) -> tuple[IpAddress, ...]:
        """Inner addresses that this host held until lately."""
        return tuple(self._former)

    def left(self) -> tuple[list[Route], tuple[str, ...]]:
        """Return the routes and the filter's notes that an earlier process left."""
        routes = [
            r for r in self._netlink.routes(self._rule.table) if r.kind is not RouteKind.THROW
        ]
        return routes, self._filter.notes(self.name) or ()

    def close(self) -> None:
        """Close the netlink socket; the walls stay."""
        self._netlink.close()

    # One step each, as the guard changes.

    def put_route(self, route: Route, program: int | None = None) -> None:
        """Install a route, or change the one of the same destination, table and metric."""
        self._netlink.put_route(route, program)

    def delete_route(self, route: Route) -> None:
        """Delete a route; it need not exist."""
        self._netlink.delete_route(route)

    def add_rule(self, version: int) -> None:
        """Lead packets of an IP version to the routing table."""
        # A stand-in may lie in a protected prefix; what is sent there is an answer.
        self._netlink.put_route(self._to_stand_in(version))
        self._netlink.add_rule(replace(self._rule, version=version))

    def remove_rules(self, versions: Collection[int]) -> None:
        """End that for IP versions without routes."""
        for version in versions:
            if self._netlink.has_rule(replace(self._rule, version=version)):
                self._netlink.delete_rule(replace(self._rule, version=version))
                self._netlink.delete_route(self._to_stand_in(version))
            self._ways.remove(version)

    def set_ways(self, routes: Routes) -> tuple[int, ...]:
        """See :meth:`~overlay.system.stand_in_ways.StandInWays.set`."""
        return self._ways.set(routes, self._neighbour_networks())

    @property
    def outside(self) -> tuple[str, ...]:
        """The devices of this host's default routes."""
        return self._ways.outside

    def ways_changed(self, routes: Routes) -> bool:
        """See :meth:`~overlay.system.stand_in_ways.StandInWays.changed`."""
        return self._ways.changed(routes, self._neighbour_networks())

    def _neighbour_networks(self) -> frozenset[IpNetwork]:
        return frozenset().union(*self._on_link.current().values())

    def enforce(self, routes: Routes, table: FilterTable, held: Iterable[IpAddress]) -> None:
        """Set both filters according to the routes, and hide the inner addresses ``held``.

        Raises:
            BackendError: the packet filter or a rule was refused; traffic control was set all
                the same.
        """
        self._held = tuple(held)
        try:
            self._kept.install(table)
            self._hidden.hide(self._held)
        finally:
            self._enforce_egress(routes)

    def forget_filter(self) -> None:
        """Let the packet filter go, which its owner removes."""
        self._kept.forget()

    def remove_egress(self) -> None:
        """Remove what traffic control has of this guard, and the rules for inner addresses.

        Raises:
            BackendError: the kernel refused.
        """
        self._held = ()
        self._hidden.hide(())
        self._former.clear()
        self._egress.remove()

    def end_address(self, address: IpAddress) -> None:
        """Remember an inner address that this host holds no longer; late packets may have it."""
        self._former[address] = None
        if len(self._former) > _MOST_FORMER:
            del self._former[next(iter(self._former))]

    # All of it, against what the kernel holds.

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of what changed on the host."""
        self._on_link.hear(events)

    def disturbed(self) -> bool:
        """Tell whether the packet filter, of which legacy iptables tells nothing, is missing.

        Raises:
            BackendError: the kernel did not tell.
        """
        return self._on_link.outdated or not self._kept.intact()

    def missing(self, routes: Routes) -> tuple[str, ...]:
        """Return the names of the walls that the kernel does not hold; nothing is changed.

        Raises:
            BackendError: the kernel did not tell.
        """
        lost = {
            self._egress_lost(routes): True,
            FILTER: not self._filter_stands(),
            RULES: bool(self._lost_rules(routes)) or not self._hidden.hides(self._held),
            ROUTES: bool(self._lost_routes(routes)),
        }
        return tuple(name for name, is_lost in lost.items() if name and is_lost)

    def bypassed(self, routes: Routes) -> tuple[str, ...]:
        """Return the walls that stand behind other programs' rules, which stay as they are.

        Raises:
            BackendError: the kernel did not tell.
        """
        asked_first = {RULES: map(str, self._rules_before(routes)), EGRESS: self._egress.preceded()}
        return tuple(
            f"{wall} (another program's is asked first: {', '.join(names[:_MOST_NAMED])})"
            for wall, names in ((wall, list(each)) for wall, each in asked_first.items())
            if names
        )

    def _rules_before(self, routes: Routes) -> tuple[int, ...]:
        found: set[int] = set()
        for version in {route.destination.version for route in routes}:
            found.update(self._netlink.rules_before(replace(self._rule, version=version)))
        return tuple(sorted(found))

    def _note_bypass(self, routes: Routes) -> None:
        bypassed = self.bypassed(routes)
        for each in bypassed:
            if each not in self._bypassed:
                _log.warning("guard.bypassed", what=Word(each))
        self._bypassed = bypassed

    def repair(self, routes: Routes) -> tuple[str, ...]:
        """Put back what is missing; return the names of what was.

        Raises:
            BackendError: the kernel refused something; all the rest was tried.
        """
        # The walls that hold every kind of packet come first.
        parts: dict[str, Callable[[], bool]] = {
            EGRESS: lambda: self._repair_egress(routes),
            FILTER: self._kept.repair,
            RULES: lambda: self._repair_rules(routes),
            ROUTES: lambda: self._repair_routes(routes),
        }
        repaired, refusal = [], None
        for name, repair in parts.items():
            try:
                if repair():
                    repaired.append(name)
            except BackendError as error:
                refusal = refusal or error
        if repaired:
            # A packet that one wall let pass may have begun a question that another wall holds.
            # Linux repeats the question for 3 s, and the other wall may be removed meanwhile.
            self._netlink.end_neighbour_questions({each.destination for each in routes})
        if refusal is not None:
            raise refusal
        self._note_bypass(routes)
        return tuple(repaired)

    def _filter_stands(self) -> bool:
        if self._kept.installed:
            return self._kept.intact()
        return self._filter.fingerprint(self.name) is not None

    def _programs(self, routes: Routes) -> ProgramsOf:
        """Return the devices' programs, compiled anew only if something changed."""
        on_link, former = self._on_link.current(), tuple(self._former)
        reason = (tuple(routes), on_link, former)
        if self._compiled[0] != reason:
            self._compiled = reason, guard_programs(self.mark, routes, on_link, former)
        return self._compiled[1]

    def _egress_lost(self, routes: Routes) -> str:
        """Return the wall's name if a device lacks its programs, with devices that refuse them."""
        lacking = self._egress.missing(self._programs(routes))
        if not lacking:
            return ""
        refusing = sorted(name for name in lacking if name in self._egress_refused)
        named = ", ".join(refusing[:_MOST_NAMED])
        more = ", ..." if len(refusing) > _MOST_NAMED else ""
        # Those that do not refuse get theirs with the next repair.
        return f"{EGRESS} (refused by {named}{more})" if refusing else EGRESS

    def _enforce_egress(self, routes: Routes) -> bool:
        """Set the programs, and return whether a device had lost its own.

        A device that refuses them has the other walls. In a kernel without traffic control, all do.

        Raises:
            BackendError: the kernel was not asked, as without file descriptors.
        """
        outcome = self._egress.enforce(self._programs(routes))
        refused = {name: str(each) for name, each in outcome.refused.items()}
        if refused.keys() - self._egress_refused.keys():
            reason = next(iter(refused.values()))
            _log.warning("guard.no_traffic_control", devices=len(refused), reason=Word(reason))
        self._egress_refused = refused
        return outcome.lost > 0

    def _repair_egress(self, routes: Routes) -> bool:
        """Return whether a device had lost its programs; new ones get theirs without a word."""
        return self._enforce_egress(routes)

    def _repair_rules(self, routes: Routes) -> bool:
        lost = self._lost_rules(routes)
        for version in lost:
            self.add_rule(version)
        return self._hidden.hide(self._held) or bool(lost)

    def _repair_routes(self, routes: Routes) -> bool:
        lost = self._lost_routes(routes)
        for route in lost:
            self._netlink.put_route(route, routes.get(route))
        return bool(lost)

    def _to_stand_in(self, version: int) -> Route:
        stand_in = ipaddress.ip_network(STAND_INS[version])
        return Route(stand_in, RouteKind.THROW, self._rule.table, _THROW_METRIC)

    def _lost_rules(self, routes: Routes) -> list[int]:
        versions = sorted({route.destination.version for route in routes})
        return [
            version
            for version in versions
            if not self._netlink.has_rule(replace(self._rule, version=version))
        ]

    def _lost_routes(self, routes: Routes) -> list[Route]:
        """Return the routes that are gone; one into a device that is gone is its owner's."""
        found = set(self._netlink.routes(self._rule.table))
        devices = device_names()
        versions = sorted({route.destination.version for route in routes})
        return [
            route
            for route in (*routes, *map(self._to_stand_in, versions))
            if route not in found and (route.device is None or route.device in devices)
        ]
