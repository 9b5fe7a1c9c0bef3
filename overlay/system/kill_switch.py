"""The kill switch: no packet to a protected destination leaves outside its circuit.

Three mechanisms block packets. All of them are kernel state that remains after the node exits.
Below, D is a protected prefix and VC the inner address of its circuit.

*Routing.* A rule with priority over ``main`` sends packets without the node's mark to a separate
routing table. For each D that table has ``unreachable D`` with a high metric. While a circuit is
open, it also has ``D dev anon0 src VC`` with a low metric. If the node dies, its TUN device
disappears together with the second route, and the first one takes effect.

*Packet filter* (:mod:`overlay.system.kill_switch_rules`). Some sockets bypass the routing table. If
a socket is bound to a device (SO_BINDTODEVICE), IPv4 assumes that D is on that link, and IPv6
skips our table. A connected IPv6 socket keeps its old route. Therefore the filter drops, after
routing, packets to D on any device except the circuit's. It handles three further cases:

* It drops packets to VC from other devices. Otherwise a neighbour could find out which inner
  address this host holds (CVE-2019-14899).
* It accepts only replies from a circuit, so that an exit cannot reach local services.
* It drops packets from VC to any other destination. Otherwise the host's own firewall could answer
  an exit (REJECT), and the exit could choose the receiver of that answer.

*Traffic control* (:mod:`overlay.system.kill_switch_egress`). Another program may flush the packet
filter. Therefore every device has an egress program that drops packets to D or from VC unless the
device is the circuit's. Flushing nftables, iptables, rules or routes does not affect it. Only
packet sockets with PACKET_QDISC_BYPASS and AF_XDP sockets bypass it; their programs write whole
frames. So nothing leaks if any one mechanism is lost.

*Answers.* Traffic that D begins is answered as if there were no path, because silence would
identify the source to D. Only answers leave in the clear, marked with
:data:`~overlay.system.marks.ANSWER_MARK` (docs/decisions/0035). Any further mechanism, for example
a security policy, must accept

* packets whose mark has the node's low bits (``mark & CLEAR_MASK == NODE_MARK``), and
* ICMPv6 135 and 136, because D may be a neighbour on a link and the kernel sets no mark there.

UDP programs see a stand-in address in place of D and answer to it. The output hook sets the mark
and undoes the translation. Then the kernel looks up the route and policy again, for D and the mark.

::

    unprotected ──protect──> protected ──(expect)──carry──> carried
         ^                    │  ^  └── the node died: protected() lists what it left
         └──────release───────┘  └────uncarry────────┘

If the kernel's IPsec carries the circuits (``by_ipsec``), a packet passes the filter before it is
encapsulated. Its output device is already that of the underlay. Then the filter accepts
outgoing packets from the inner address that a policy will encapsulate, and incoming packets that
came out of a tunnel. It also normalises header fields there, as far as a packet filter can
(docs/decisions/0012). Packets that are fragmented first (docs/decisions/0014) pass the filter
twice: first towards the fragmenting device, then with a policy.

All calls are idempotent. The kill switch compares the wanted state with the kernel's state
(:meth:`KillSwitch.missing`) and restores what another program removed (:meth:`KillSwitch.repair`).
A new process takes over the state of a killed one. The prefixes are stored both in the routes and
in the filter's notes, so losing one of them loses no prefix. Former values of kernel settings are
notes as well.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Self

from overlay.addresses import InnerAddress, IpAddress, IpNetwork
from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.system.answer_settings import AnswerSettings
from overlay.system.conntrack import forget_datagrams_with
from overlay.system.filter_choice import LaterFilter, chosen_filter
from overlay.system.host_events import HostEvent
from overlay.system.kill_switch_rules import ipsec_kill_switch_filter, kill_switch_filter
from overlay.system.kill_switch_state import KillSwitchRules
from overlay.system.marks import CLEAR_MASK, NODE_MARK
from overlay.system.orphaned_sockets import abort_orphaned_sockets, abort_sockets_of
from overlay.system.ownership import Ownership
from overlay.system.packet_filter import FilterTable, PacketFilter
from overlay.system.rtnetlink import MarkRule, Route, RouteKind

__all__ = [
    "KILL_SWITCH_TABLE",
    "NODE_MARK",
    "KillSwitch",
    "ipsec_kill_switch_filter",
    "kill_switch_filter",
]

KILL_SWITCH_TABLE: Final = 0x6D69
"""Number of the routing table; each node of a network namespace needs a different one."""

_RULE_PREFERENCE: Final = 109
"""After ``local`` (0); before ``main`` (32766) and before the rules of common VPN programs."""

# The lower metric wins, so the route into a circuit is used while it exists.
_CARRY_METRIC: Final = 1
_UNREACHABLE_METRIC: Final = 0x7FFFFFFF

_MOST_EXPECTED: Final = 256
"""Limit of addresses from ``expect`` without a ``carry``, because a circuit may end before."""

_SETTINGS: Final = "kernel settings"
_LOCK: Final = "lock"

_log = EventLog(__name__)


class KillSwitch:
    """The kill switch of this network namespace; closing it does not end the protection.

    :meth:`close` only gives up the right to change the kill switch. A prefix stays protected until
    this process or a later one calls :meth:`release`.
    """

    def __init__(
        self,
        *,
        table: int = KILL_SWITCH_TABLE,
        mark: int = NODE_MARK,
        packet_filter: PacketFilter | None = None,
        by_ipsec: bool = False,
        own_ports: Sequence[int] = (),
    ) -> None:
        """Take the kill switch of a routing table, with the state that an earlier process left.

        Args:
            table: number of the routing table.
            mark: firewall mark of the node's own datagrams.
            packet_filter: the packet filter to use; None selects the host's.
            by_ipsec: whether the kernel's IPsec carries the circuits.
            own_ports: UDP ports of the node. A protected host may be a peer, so no stand-in
                replaces its address there.

        Raises:
            BackendError: another node uses this table, or a permission is missing.
        """
        self._table = table
        self._by_ipsec = by_ipsec
        name = f"guard-{table}"
        self._own_ports = tuple(own_ports)
        self._devices: dict[str, None] = {}
        self._expected: dict[IpAddress, None] = {}
        self._wanted: dict[IpNetwork, tuple[Route, int | None] | None] = {}
        self._is_current = False
        self._defers = self._owes = False
        self._told_of_connections = False
        found = chosen_filter(packet_filter) if packet_filter is not None else LaterFilter()
        self._settings = AnswerSettings(found, name)
        self._ownership = Ownership(
            name,
            "open paths through that node (name its control socket with --socket), or run this "
            "one in a network namespace of its own (ip netns)",
            called="the protection of destinations",
        )
        rule = MarkRule(4, _RULE_PREFERENCE, mark & CLEAR_MASK, table, others=True, mask=CLEAR_MASK)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._ownership.release)
            self._rules = KillSwitchRules(name, mark, rule, found)
            on_failure.callback(self._rules.close)
            self._adopt()
            on_failure.pop_all()

    def protect(self, *prefixes: IpNetwork) -> None:
        """Protect ``prefixes``: afterwards their packets leave through a circuit or are dropped.

        Raises:
            BackendError: the kernel refused; the destination may then be blocked or open.
                :meth:`repair` tries again, and :meth:`release` cleans up.
        """
        self._ownership.retake()
        for prefix in prefixes:
            self._wanted.setdefault(prefix, None)
        self._is_current = False
        for prefix in prefixes:
            self._rules.put_route(self._unreachable(prefix))
        for version in sorted({prefix.version for prefix in prefixes}):
            self._rules.add_rule(version)
        self._enforce()
        # The stand-in replaces the address only in new entries of connection tracking. Programs
        # would still see the protected host's own address in old ones.
        for prefix in prefixes:
            forget_datagrams_with(prefix)

    def expect(self, source_address: InnerAddress, device: str | None = None) -> None:
        """Install the rules for an inner address before this host gets the address.

        Otherwise packets other than replies could reach local services for a moment. Inside
        :meth:`together` the rules exist after the end of the block.

        Args:
            source_address: the inner address that the caller will add next.
            device: the device of its circuits; None if the kernel's IPsec carries them.

        Raises:
            BackendError: the kernel refused; the caller must not add the address.
        """
        if device is not None:
            self._devices[device] = None
        self._expected[ipaddress.ip_address(source_address)] = None
        if len(self._expected) > _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]
        if self._wanted:  # else there is no filter yet; protect() will include this address
            self._enforce_soon()

    def carry(
        self,
        prefix: IpNetwork,
        device: str,
        source_address: InnerAddress,
        mtu: int,
        *,
        program: int | None = None,
    ) -> None:
        """Send packets to a protected prefix into ``device``.

        Args:
            prefix: a prefix that :meth:`protect` was called for.
            device: the source's TUN device; it must hold ``source_address``.
            source_address: the inner address (VC) that programs use unless they choose one.
            mtu: size in bytes of the largest packet that the circuit carries. TCP announces an
                MSS that fits.
            program: the reroute program for fragments of this MTU, if the device is the
                fragmenting one (``overlay.system.fragmenting_device``); else None.

        Raises:
            ValueError: the prefix is not protected.
            BackendError: the kernel refused; the prefix remains protected.
        """
        if prefix not in self._wanted:
            raise ValueError("a destination must be protected before it is carried.")
        route = replace(
            self._carry_route(prefix),
            device=device,
            source=ipaddress.ip_address(source_address),
            mtu=mtu,
            rerouted=program is not None,
        )
        self._rules.put_route(route, program)
        self._wanted[prefix] = route, program
        self._expected.pop(ipaddress.ip_address(source_address), None)
        self._enforce_soon()
        # A killed process had another inner address. Connections from that address cannot get
        # answers any more, so they are aborted and do not wait.
        self._abort_orphans(prefix)

    def uncarry(self, prefix: IpNetwork) -> None:
        """Stop sending packets to ``prefix`` into the circuit; it remains protected.

        Connections from the circuit's inner address are aborted if this kernel supports it. They
        are kept if the address still carries another prefix.
        """
        ended = self._end_circuit(prefix)
        self._rules.delete_route(self._carry_route(prefix))
        self._enforce_soon()
        if ended is not None:
            self._tell_of_connections(abort_sockets_of(ended))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Delay the change of the filters in a ``with`` block, for all calls but :meth:`protect`.

        Routes change at once; the filters change once, at the end of the block. Until then they
        accept packets into the circuits before the block, and into no new ones. Nothing leaks,
        because the routes into the old circuits and their inner addresses are gone.

        Raises:
            BackendError: the kernel refused at the end of the block. :meth:`repair` tries again.
        """
        self._defers = True
        try:
            yield
        finally:
            self._defers = False
            if self._owes:
                self._enforce()

    def release(self, *prefixes: IpNetwork) -> None:
        """End the protection of ``prefixes``, in this order.

        With the last protected prefix, rules and filter are removed as well. Connections through
        its circuit are aborted, if this kernel supports it.
        """
        for prefix in prefixes:
            ended = self._end_circuit(prefix)
            self._rules.delete_route(self._carry_route(prefix))
            if ended is not None:
                self._tell_of_connections(abort_sockets_of(ended))
            self._abort_orphans(prefix)
        # The filter is changed before the routes are deleted. If the node is killed in between,
        # protected() of the next process still finds the prefixes in the routes.
        self._enforce(released=prefixes)
        for prefix in prefixes:
            self._rules.delete_route(self._unreachable(prefix))
            self._wanted.pop(prefix, None)
        self._rules.remove_rules({4, 6} - {each.version for each in self._wanted})
        self._is_current = True

    def protected(self) -> list[IpNetwork]:
        """Return the protected prefixes, including those that a killed process left."""
        return list(self._wanted)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process events of the host, so that :meth:`repair` only reads state that changed."""
        self._rules.hear(events)

    def disturbed(self) -> bool:
        """Tell whether state is missing whose loss causes no kernel notification.

        This takes less than 1 ms.

        Raises:
            BackendError: the state could not be read.
        """
        return bool(self._wanted) and (self._rules.disturbed() or self._settings.differ())

    def missing(self) -> tuple[str, ...]:
        """Return the names of the parts that are missing in the kernel; nothing is changed.

        Raises:
            BackendError: the state could not be read.
        """
        if not self._wanted:
            return ()
        routes = self._wanted_routes()
        lost = (*self._rules.missing(routes), *self._rules.bypassed(routes))
        return (*lost, *((_SETTINGS,) if self._settings.differ() else ()))

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed, and return the names of the missing parts.

        Raises:
            BackendError: the kernel refused a part; the other parts were still attempted. Or
                another node owns the kill switch by now; then nothing is changed.
        """
        lost: tuple[str, ...] = (_LOCK,) if self._ownership.retake() else ()
        if not self._wanted:
            return lost
        # Before the first change of this process, the state is that of an earlier one. Read what
        # was missing now, because _enforce() below replaces it.
        if not self._rules.enforced:
            lost = (*lost, *self._rules.missing(self._wanted_routes()))
        # Also set the filters if a change was refused before, or if a default route came or went.
        if not self._is_current or self._rules.ways_changed(self._wanted_routes()):
            self._enforce()
        if self._settings.differ():
            lost = (*lost, _SETTINGS)
            self._enforce()  # stores the values of the other program in the filter's notes
        return tuple(dict.fromkeys((*self._rules.repair(self._wanted_routes()), *lost)))

    def close(self) -> None:
        """Give up the right to change the kill switch; may be called repeatedly."""
        self._rules.close()
        self._ownership.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _adopt(self) -> None:
        """Take over the prefixes that an earlier process left in routes and filter notes."""
        routes, notes = self._rules.left()
        for route in routes:
            if route.kind is RouteKind.UNICAST:
                self._wanted[route.destination] = route, None
            else:
                self._wanted.setdefault(route.destination, None)
        for note in notes:
            with contextlib.suppress(ValueError):  # a note with the former value of a setting
                self._wanted.setdefault(ipaddress.ip_network(note), None)

    def _enforce_soon(self) -> None:
        """Set the filters now, or at the end of the block of :meth:`together`."""
        if self._defers:
            self._owes, self._is_current = True, False
        else:
            self._enforce()

    def _enforce(self, released: Collection[IpNetwork] = ()) -> None:
        """Set the filters to the wanted state, without the prefixes ``released``.

        If this fails, the next :meth:`repair` tries it again.
        """
        self._is_current = self._owes = False
        routes = self._wanted_routes(released)
        if not routes:
            self._rules.remove_egress()
            self._rules.forget_filter()
            self._settings.restore()
            return
        held = (*(r.source for r in routes if r.source is not None), *self._expected)
        self._rules.enforce(routes, self._filter_table(routes), dict.fromkeys(held))
        self._settings.apply()
        self._is_current = not released

    def _end_circuit(self, prefix: IpNetwork) -> IpAddress | None:
        """Forget the circuit of a prefix; return its inner address unless it is still in use."""
        carried = self._wanted.get(prefix)
        if carried is None:
            return None
        self._wanted[prefix] = None
        source = carried[0].source
        if source is None:
            return None
        self._rules.end_address(source)
        in_use = any(
            each is not None and each[0].source == source for each in self._wanted.values()
        )
        return None if in_use else source

    def _abort_orphans(self, prefix: IpNetwork) -> None:
        try:
            self._tell_of_connections(abort_orphaned_sockets(prefix))
        except BackendError as error:
            self._tell_of_connections(str(error))

    def _tell_of_connections(self, refusal: str) -> None:
        """Log once that connections could not be aborted, with the reason ``refusal``."""
        if refusal and not self._told_of_connections:
            self._told_of_connections = True
            _log.warning("kill_switch.connections_not_aborted", reason=Word(refusal))

    def _filter_table(self, routes: Iterable[Route]) -> FilterTable:
        rules_of = ipsec_kill_switch_filter if self._by_ipsec else kill_switch_filter
        given = list(routes)
        table = rules_of(
            self._rules.name,
            self._rules.mark,
            given,
            devices=tuple(self._devices),
            expected=(*self._expected, *self._rules.former),
            own_ports=self._own_ports,
            without_default=self._rules.set_ways(dict.fromkeys(given)),
            outside=self._rules.outside,
        )
        prefixes = dict.fromkeys(str(route.destination) for route in given)
        return replace(table, notes=(*self._settings.notes(), *prefixes))

    def _wanted_routes(self, released: Collection[IpNetwork] = ()) -> dict[Route, int | None]:
        """Return the routes that must exist, each with its reroute program or None."""
        routes: dict[Route, int | None] = {}
        for prefix, carried in self._wanted.items():
            if prefix not in released:
                routes[self._unreachable(prefix)] = None
                if carried is not None:
                    routes[carried[0]] = carried[1]
        return routes

    def _unreachable(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNREACHABLE, self._table, _UNREACHABLE_METRIC)

    def _carry_route(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNICAST, self._table, _CARRY_METRIC)
