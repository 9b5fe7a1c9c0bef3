"""The kernel state of the kill switch: set it, compare it with the kernel, and restore it.

This module knows nothing of paths. :class:`~overlay.system.kill_switch.KillSwitch` decides which
routes must exist. Rules, packet filter and traffic control are derived from these routes.
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
from overlay.system.kill_switch_egress import kill_switch_programs
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
"""The number of devices or rules that a line of the status names."""

_MOST_FORMER: Final = 64
"""The number of former inner addresses that are remembered.

A late packet may still have such an address; the kernel gives up a packet that waits for ARP after
3 s.
"""

Routes = Mapping[Route, int | None]
"""The routes that must exist, each with its reroute program, or None if it has none."""

ProgramsOf = Callable[[str], tuple[bytes, ...]]
"""A function that returns the egress programs of a device by its name."""

_log = EventLog(__name__)


# Large: routes, rules and addresses of one kill switch change together.
class KillSwitchRules:
    """Rules, routes, packet filter and traffic control of one kill switch."""

    def __init__(self, name: str, mark: int, rule: MarkRule, packet_filter: PacketFilter) -> None:
        """Prepare; nothing is changed.

        Args:
            name: name of the packet filter table.
            mark: firewall mark of the node's own datagrams.
            rule: routing rule that leads to the routing table, for either IP version.
            packet_filter: the packet filter of the host.

        Raises:
            BackendError: the netlink socket could not be opened.
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
        # Marks have zeros in the upper bits. So these bits can identify the rules of this kill
        # switch among those of other nodes in the network namespace.
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
        """Inner addresses that this host held until recently."""
        return tuple(self._former)

    def left(self) -> tuple[list[Route], tuple[str, ...]]:
        """Return the routes and the filter's notes that an earlier process left."""
        routes = [
            r for r in self._netlink.routes(self._rule.table) if r.kind is not RouteKind.THROW
        ]
        return routes, self._filter.notes(self.name) or ()

    def close(self) -> None:
        """Close the netlink socket; the kernel state stays."""
        self._netlink.close()

    # Single steps of a change.

    def put_route(self, route: Route, program: int | None = None) -> None:
        """Install a route, or replace the one with the same destination, table and metric."""
        self._netlink.put_route(route, program)

    def delete_route(self, route: Route) -> None:
        """Delete a route; it need not exist."""
        self._netlink.delete_route(route)

    def add_rule(self, version: int) -> None:
        """Add the rule that sends packets of an IP version to the routing table."""
        # A protected prefix may contain a stand-in. Packets to the stand-in are answers, so the
        # table skips them (throw) and they take the host's own routes.
        self._netlink.put_route(self._to_stand_in(version))
        self._netlink.add_rule(replace(self._rule, version=version))

    def remove_rules(self, versions: Collection[int]) -> None:
        """Remove the rules of IP versions that have no protected prefix any more."""
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
        """The devices of the host's default routes."""
        return self._ways.outside

    def ways_changed(self, routes: Routes) -> bool:
        """See :meth:`~overlay.system.stand_in_ways.StandInWays.changed`."""
        return self._ways.changed(routes, self._neighbour_networks())

    def _neighbour_networks(self) -> frozenset[IpNetwork]:
        return frozenset().union(*self._on_link.current().values())

    def enforce(self, routes: Routes, table: FilterTable, held: Iterable[IpAddress]) -> None:
        """Set packet filter and traffic control for the routes; hide the addresses ``held``.

        Raises:
            BackendError: the packet filter or a rule was refused; traffic control was still set.
        """
        self._held = tuple(held)
        try:
            self._kept.install(table)
            self._hidden.hide(self._held)
        finally:
            self._enforce_egress(routes)

    def forget_filter(self) -> None:
        """Stop keeping the packet filter table; restoring the kernel settings removes it."""
        self._kept.forget()

    def remove_egress(self) -> None:
        """Remove the programs of traffic control and the rules for inner addresses.

        Raises:
            BackendError: the kernel refused.
        """
        self._held = ()
        self._hidden.hide(())
        self._former.clear()
        self._egress.remove()

    def end_address(self, address: IpAddress) -> None:
        """Remember an inner address that this host no longer holds; late packets may have it."""
        self._former[address] = None
        if len(self._former) > _MOST_FORMER:
            del self._former[next(iter(self._former))]

    # Comparison of the whole state with the kernel.

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process events of the host."""
        self._on_link.hear(events)

    def disturbed(self) -> bool:
        """Tell whether networks of links or the packet filter changed.

        The filter must be read, because legacy iptables sends no notifications.

        Raises:
            BackendError: the state could not be read.
        """
        return self._on_link.outdated or not self._kept.intact()

    def missing(self, routes: Routes) -> tuple[str, ...]:
        """Return the names of the mechanisms that are missing; nothing is changed.

        Raises:
            BackendError: the state could not be read.
        """
        lost = {
            self._egress_lost(routes): True,
            FILTER: not self._filter_stands(),
            RULES: bool(self._lost_rules(routes)) or not self._hidden.hides(self._held),
            ROUTES: bool(self._lost_routes(routes)),
        }
        return tuple(name for name, is_lost in lost.items() if name and is_lost)

    def bypassed(self, routes: Routes) -> tuple[str, ...]:
        """Return the mechanisms that another program's rules precede; nothing is changed.

        Raises:
            BackendError: the state could not be read.
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
                _log.warning("kill_switch.bypassed", what=Word(each))
        self._bypassed = bypassed

    def repair(self, routes: Routes) -> tuple[str, ...]:
        """Restore what is missing, and return the names of the missing mechanisms.

        Raises:
            BackendError: the kernel refused a part; the other parts were still attempted.
        """
        # The mechanisms that stop every kind of packet come first.
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
            # While one mechanism was missing, a packet may have caused an ARP request that another
            # mechanism dropped. Linux repeats the request for 3 s, and the other mechanism may be
            # removed meanwhile.
            try:
                self._netlink.end_neighbour_questions({each.destination for each in routes})
            except BackendError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        self._note_bypass(routes)
        return tuple(repaired)

    def _filter_stands(self) -> bool:
        if self._kept.installed:
            return self._kept.intact()
        return self._filter.fingerprint(self.name) is not None

    def _programs(self, routes: Routes) -> ProgramsOf:
        """Return the programs of the devices; compile them only if their inputs changed."""
        on_link, former = self._on_link.current(), tuple(self._former)
        reason = (tuple(routes), on_link, former)
        if self._compiled[0] != reason:
            self._compiled = reason, kill_switch_programs(self.mark, routes, on_link, former)
        return self._compiled[1]

    def _egress_lost(self, routes: Routes) -> str:
        """Return the name of traffic control if a device lacks programs, or an empty string.

        The name is followed by the devices that refused their programs.
        """
        lacking = self._egress.missing(self._programs(routes))
        if not lacking:
            return ""
        refusing = sorted(name for name in lacking if name in self._egress_refused)
        named = ", ".join(refusing[:_MOST_NAMED])
        more = ", ..." if len(refusing) > _MOST_NAMED else ""
        # Devices that did not refuse get their programs with the next repair.
        return f"{EGRESS} (refused by {named}{more})" if refusing else EGRESS

    def _enforce_egress(self, routes: Routes) -> bool:
        """Set the programs, and return whether a device had lost its own.

        The other mechanisms still protect a device that refuses its programs. Without traffic
        control in the kernel, every device refuses them.

        Raises:
            BackendError: no request was sent, for example for lack of file descriptors.
        """
        outcome = self._egress.enforce(self._programs(routes))
        refused = {name: str(each) for name, each in outcome.refused.items()}
        if refused.keys() - self._egress_refused.keys():
            reason = next(iter(refused.values()))
            _log.warning(
                "kill_switch.no_traffic_control", devices=len(refused), reason=Word(reason)
            )
        self._egress_refused = refused
        return outcome.lost > 0

    def _repair_egress(self, routes: Routes) -> bool:
        """Set the programs; return whether a device had lost its own. New devices do not count."""
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
        """Return the missing routes, except those whose device is missing.

        The owner of such a device adds the route again together with the device.
        """
        found = set(self._netlink.routes(self._rule.table))
        devices = device_names()
        versions = sorted({route.destination.version for route in routes})
        return [
            route
            for route in (*routes, *map(self._to_stand_in, versions))
            if route not in found and (route.device is None or route.device in devices)
        ]
