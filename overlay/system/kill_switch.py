"""The kill switch: no packet to a protected destination leaves outside its circuit.

Three walls, all in the kernel, all standing when the node is gone:

*Routing.* A rule before ``main`` sends every packet without the node's own mark to a table
of ours. For each protected prefix D it holds ``unreachable D`` with a high metric, and, while
a circuit is open, ``D dev anon0 src VC`` with a low one. The TUN device takes the second one
along when the node dies; then the first one answers.

*Packet filter* (:mod:`overlay.system.kill_switch_rules`). Routing can be gone around: a socket
bound to a device (SO_BINDTODEVICE) makes IPv4 assume that D is on that link, and IPv6 skip our
table;
a connected IPv6 socket keeps the route that it had. So a filter drops, after routing, whatever
goes to D through another device than the circuit's. It also drops packets to VC from any other
device, by which a neighbour could find out which inner address this host holds
(CVE-2019-14899). And it lets in through a circuit nothing but answers, so that no exit can call
on local services. What leaves from VC to anywhere else is dropped: were it this host's own
firewall that answers an exit (REJECT), the exit would choose who gets that answer.

*Traffic control* (:mod:`overlay.system.kill_switch_egress`). A packet filter may be flushed by
another program. So a program at the way out of every device drops what goes to D, or comes from VC,
through another device than the circuit's. No flush of nftables, iptables, rules or routes touches
it, and no socket goes around it but packet sockets with PACKET_QDISC_BYPASS and AF_XDP, whose
programs write the frames. The loss of any one wall therefore leaks nothing.

*Answers.* What D begins itself is answered as if there were no path, because silence would name
the source to D. Only answers leave in the clear, with :data:`~overlay.system.marks.ANSWER_MARK`
(docs/decisions/0035). Any further wall, a security policy for example, must let pass

* packets whose mark has the node's low bits (``mark & CLEAR_MASK == NODE_MARK``), and
* ICMPv6 135 and 136, because D may be a neighbour on a link and the kernel sets no mark there.

UDP programs answer D at its stand-in. The mark is set and the translation undone in the output
hook, and the route, with its policy, is then sought anew for D and the mark.

::

    unprotected ──protect──> protected ──(expect)──carry──> carried
         ^                    │  ^  └── the node died: leftovers, found by protected()
         └──────release───────┘  └────uncarry────────┘

Where the kernel itself carries the circuits (``by_ipsec``), a packet meets the filter before it
is encapsulated, already under the name of the underlay's device. Then the filter lets out what
a policy will put into a tunnel, from the inner address alone, and lets in what came out of one.
It also normalises there, as far as a packet filter can (docs/decisions/0012). Packets that are cut
first (docs/decisions/0014) pass it twice: towards the fragmenting device, then with a policy.

All calls are idempotent. The guard knows what it wants, reads from the kernel what is there
(:meth:`KillSwitch.missing`), and puts back what another program removed
(:meth:`KillSwitch.repair`). A new process takes over what a killed one left: the prefixes
are in the routes and in the filter's notes, so that the loss of one of them forgets none. The
former values of kernel settings are notes as well.
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
from overlay.system.kill_switch_rules import guard_filter, ipsec_guard_filter
from overlay.system.kill_switch_state import KillSwitchRules
from overlay.system.marks import CLEAR_MASK, NODE_MARK
from overlay.system.orphaned_sockets import abort_orphaned_sockets, abort_sockets_of
from overlay.system.ownership import Ownership
from overlay.system.packet_filter import FilterTable, PacketFilter
from overlay.system.rtnetlink import MarkRule, Route, RouteKind

__all__ = ["GUARD_TABLE", "NODE_MARK", "KillSwitch", "guard_filter", "ipsec_guard_filter"]

GUARD_TABLE: Final = 0x6D69
"""Number of the routing table; another node in the same namespace needs another one."""

_RULE_PREFERENCE: Final = 109
"""After ``local`` (0), before ``main`` (32766) and before common VPN programs' rules."""

_CARRY_METRIC: Final = 1
_UNREACHABLE_METRIC: Final = 0x7FFFFFFF

_MOST_EXPECTED: Final = 256
"""Inner addresses that may never be carried, because their circuits ended before."""

_SETTINGS: Final = "kernel settings"

_log = EventLog(__name__)


class KillSwitch:
    """The guard of this network namespace; a context manager that leaves protection in place.

    Closing it only gives up the right to change the guard: what is protected stays so until
    :meth:`release`, by this process or a later one.
    """

    def __init__(
        self,
        *,
        table: int = GUARD_TABLE,
        mark: int = NODE_MARK,
        packet_filter: PacketFilter | None = None,
        by_ipsec: bool = False,
        own_ports: Sequence[int] = (),
    ) -> None:
        """Take the guard of a table.

        Args:
            table: number of the routing table.
            mark: firewall mark of the node's own datagrams.
            packet_filter: the host's if None.
            by_ipsec: whether the kernel's IPsec carries the circuits.
            own_ports: UDP ports of the node, where a protected host may also be a peer.

        Raises:
            BackendError: another node has it, or there is no permission.
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
            self._walls = KillSwitchRules(name, mark, rule, found)
            on_failure.callback(self._walls.close)
            self._adopt()
            on_failure.pop_all()

    def protect(self, *prefixes: IpNetwork) -> None:
        """From the return on, packets to ``prefixes`` leave through a circuit or not at all.

        Raises:
            BackendError: the kernel refused; the destination may then be blocked or open.
                :meth:`repair` tries again, and :meth:`release` cleans up.
        """
        for prefix in prefixes:
            self._wanted.setdefault(prefix, None)
        self._is_current = False
        for prefix in prefixes:
            self._walls.put_route(self._unreachable(prefix))
        for version in sorted({prefix.version for prefix in prefixes}):
            self._walls.add_rule(version)
        self._enforce()
        # Connections that are known already would keep the protected host's own address.
        for prefix in prefixes:
            forget_datagrams_with(prefix)

    def expect(self, source_address: InnerAddress, device: str | None = None) -> None:
        """Let nothing but answers in, before this host holds an inner address.

        Args:
            source_address: the inner address, which is about to be added.
            device: the device of its circuits, unless the kernel's IPsec carries them.

        Raises:
            BackendError: the kernel refused; the address must not be added.
        """
        if device is not None:
            self._devices[device] = None
        self._expected[ipaddress.ip_address(source_address)] = None
        if len(self._expected) > _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]
        if self._wanted:  # else there is no filter yet, and protect() sets it with this address
            self._enforce()

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
            mtu: bytes of the largest packet that the circuit takes; TCP announces segments
                that fit.
            program: takes packets on that were cut to this MTU, if the device is the
                fragmenting one (``overlay.system.fragmenting_device``).

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
        self._walls.put_route(route, program)
        self._wanted[prefix] = route, program
        self._expected.pop(ipaddress.ip_address(source_address), None)
        self._enforce()
        # A killed process had another address, and its connections wait for answers still.
        self._abort_orphans(prefix)

    def uncarry(self, prefix: IpNetwork) -> None:
        """Stop sending packets to ``prefix`` into the circuit; it remains protected.

        Connections from the circuit's inner address are aborted, as far as this kernel can do it,
        unless the address carries another prefix.
        """
        ended = self._end_circuit(prefix)
        self._walls.delete_route(self._carry_route(prefix))
        if self._defers:
            self._owes, self._is_current = True, False
        else:
            self._enforce()
        if ended is not None:
            self._tell_of_connections(abort_sockets_of(ended))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Set the filters once for all that is uncarried inside; routes change at once.

        Until the end of the block the filters permit what they did before. Nothing leaves by that,
        because the routes into the circuits and the inner addresses are gone.

        Raises:
            BackendError: at the end, the kernel refused. :meth:`repair` tries again.
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

        The last protected prefix takes rules and filter along.

        Connections that went through a circuit end with it, as far as this kernel can do it.
        """
        for prefix in prefixes:
            ended = self._end_circuit(prefix)
            self._walls.delete_route(self._carry_route(prefix))
            if ended is not None:
                self._tell_of_connections(abort_sockets_of(ended))
            self._abort_orphans(prefix)
        # The filter goes first: killed in between, the node leaves what protected() finds.
        self._enforce(released=prefixes)
        for prefix in prefixes:
            self._walls.delete_route(self._unreachable(prefix))
            self._wanted.pop(prefix, None)
        self._walls.remove_rules({4, 6} - {each.version for each in self._wanted})
        self._is_current = True

    def protected(self) -> list[IpNetwork]:
        """Return the protected prefixes, also those that a killed process left."""
        return list(self._wanted)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of what changed on the host, so that :meth:`repair` reads no more than that."""
        self._walls.hear(events)

    def disturbed(self) -> bool:
        """Tell, within a millisecond, whether something is missing that no notification tells of.

        Raises:
            BackendError: the kernel did not tell.
        """
        return bool(self._wanted) and (self._walls.disturbed() or self._settings.differ())

    def missing(self) -> tuple[str, ...]:
        """Return which parts of the guard the kernel does not hold; nothing is changed.

        Raises:
            BackendError: the kernel did not tell.
        """
        if not self._wanted:
            return ()
        routes = self._wanted_routes()
        lost = (*self._walls.missing(routes), *self._walls.bypassed(routes))
        return (*lost, *((_SETTINGS,) if self._settings.differ() else ()))

    def repair(self) -> tuple[str, ...]:
        """Put back what another program removed; return the names of what was missing.

        Raises:
            BackendError: the kernel refused something; all the rest was tried.
        """
        if not self._wanted:
            return ()
        lost: tuple[str, ...] = ()
        if not self._walls.enforced:  # an earlier process left it
            lost = self._walls.missing(self._wanted_routes())
        # Or a change was refused, or a default route came or went.
        if not self._is_current or self._walls.ways_changed(self._wanted_routes()):
            self._enforce()
        if self._settings.differ():
            lost = (*lost, _SETTINGS)
            self._enforce()  # the filter's notes name what the other program chose
        return tuple(dict.fromkeys((*self._walls.repair(self._wanted_routes()), *lost)))

    def close(self) -> None:
        """Give up the right to change the guard; harmless if repeated."""
        self._walls.close()
        self._ownership.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _adopt(self) -> None:
        """Find what an earlier process left, in the routes and in the filter's notes."""
        routes, notes = self._walls.left()
        for route in routes:
            if route.kind is RouteKind.UNICAST:
                self._wanted[route.destination] = route, None
            else:
                self._wanted.setdefault(route.destination, None)
        for note in notes:
            with contextlib.suppress(ValueError):  # a setting's former value
                self._wanted.setdefault(ipaddress.ip_network(note), None)

    def _enforce(self, released: Collection[IpNetwork] = ()) -> None:
        """Let the filters follow what is wanted; until it is done, a repair begins with it."""
        self._is_current = self._owes = False
        routes = self._wanted_routes(released)
        if not routes:
            self._walls.remove_egress()
            self._walls.forget_filter()
            self._settings.restore()
            return
        held = (*(r.source for r in routes if r.source is not None), *self._expected)
        self._walls.enforce(routes, self._filter_table(routes), dict.fromkeys(held))
        self._settings.apply()
        self._is_current = not released

    def _end_circuit(self, prefix: IpNetwork) -> IpAddress | None:
        """Forget what carried a prefix; return its inner address unless another one needs it."""
        carried = self._wanted.get(prefix)
        if carried is None:
            return None
        self._wanted[prefix] = None
        source = carried[0].source
        if source is None:
            return None
        self._walls.end_address(source)
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
        """Log once that programs are not told of the end of their connections."""
        if refusal and not self._told_of_connections:
            self._told_of_connections = True
            _log.warning("guard.connections_not_aborted", reason=Word(refusal))

    def _filter_table(self, routes: Iterable[Route]) -> FilterTable:
        rules_of = ipsec_guard_filter if self._by_ipsec else guard_filter
        given = list(routes)
        table = rules_of(
            self._walls.name,
            self._walls.mark,
            given,
            devices=tuple(self._devices),
            expected=(*self._expected, *self._walls.former),
            own_ports=self._own_ports,
            without_default=self._walls.set_ways(dict.fromkeys(given)),
            outside=self._walls.outside,
        )
        prefixes = dict.fromkeys(str(route.destination) for route in given)
        return replace(table, notes=(*self._settings.notes(), *prefixes))

    def _wanted_routes(self, released: Collection[IpNetwork] = ()) -> dict[Route, int | None]:
        """Return the routes that shall be there, with the program of a ``rerouted`` one."""
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
