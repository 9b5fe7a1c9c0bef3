"""The destination guard: no packet to a protected destination leaves outside its circuit.

Two walls, both in the kernel, both standing when the node is gone:

*Routing.* A rule before ``main`` sends every packet without the node's own mark to a table
of ours. For each protected prefix D it holds ``unreachable D`` with a high metric, and, while
a circuit is open, ``D dev anon0 src VC`` with a low one. The TUN device takes the second one
along when the node dies; then the first one answers.

*Packet filter* (:mod:`overlay.system.guard_rules`). Routing can be gone around: a socket bound
to a device (SO_BINDTODEVICE) makes IPv4 assume that D is on that link, and IPv6 skip our table;
a connected IPv6 socket keeps the route that it had. So a filter drops, after routing, whatever
goes to D through another device than the circuit's. It also drops packets to VC from any other
device, by which a neighbour could find out which inner address this host holds
(CVE-2019-14899). And it lets in through a circuit nothing but answers, so that no exit can call
on local services. What leaves from VC to anywhere else is dropped: were it this host's own
firewall that answers an exit (REJECT), the exit would choose who gets that answer.

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

The state is the kernel's alone: the filter is derived from the routes at each change, so all
calls are idempotent, and a new process takes over what a killed one left. The former values of
kernel settings are notes in the filter's table.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Self

from overlay.addresses import InnerAddress, IpAddress, IpNetwork
from overlay.system.answer_settings import AnswerSettings
from overlay.system.conntrack import forget_datagrams_from
from overlay.system.filter_choice import find_packet_filter
from overlay.system.guard_rules import guard_filter, ipsec_guard_filter
from overlay.system.marks import CLEAR_MASK, NODE_MARK
from overlay.system.orphaned_sockets import abort_orphaned_sockets
from overlay.system.ownership import Ownership
from overlay.system.packet_filter import PacketFilter
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink

__all__ = ["GUARD_TABLE", "NODE_MARK", "DestinationGuard", "guard_filter", "ipsec_guard_filter"]

GUARD_TABLE: Final = 0x6D69
"""Number of the routing table; another node in the same namespace needs another one."""

_RULE_PREFERENCE: Final = 109
"""After ``local`` (0), before ``main`` (32766) and before common VPN programs' rules."""

_CARRY_METRIC: Final = 1
_UNREACHABLE_METRIC: Final = 0x7FFFFFFF

_MOST_EXPECTED: Final = 256
"""Inner addresses that may never be carried, because their circuits ended before."""


class DestinationGuard:
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
            BackendError: another node has it, there is no permission, or no packet filter.
        """
        self._table = table
        self._mark = mark
        self._by_ipsec = by_ipsec
        self._filter_name = f"guard-{table}"
        self._own_ports = tuple(own_ports)
        self._devices: dict[str, None] = {}
        self._expected: dict[IpAddress, None] = {}
        self._filter = packet_filter or find_packet_filter()
        self._settings = AnswerSettings(self._filter, self._filter_name)
        self._ownership = Ownership(
            self._filter_name, "stop it, or give this node another guard table in its settings"
        )
        try:
            self._routes = Rtnetlink()
        except BaseException:
            self._ownership.release()
            raise

    def protect(self, *prefixes: IpNetwork) -> None:
        """From the return on, packets to ``prefixes`` leave through a circuit or not at all.

        Raises:
            BackendError: the kernel refused; the destination may then be blocked or open,
                and :meth:`release` cleans up.
        """
        for prefix in prefixes:
            self._routes.put_route(self._unreachable(prefix))
        for version in sorted({prefix.version for prefix in prefixes}):
            self._routes.add_rule(self._rule(version))
        self._enforce()
        # Connections that are known already would keep the protected host's own address.
        for prefix in prefixes:
            forget_datagrams_from(prefix)

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
        if prefix not in self.protected():
            raise ValueError("a destination must be protected before it is carried.")
        route = replace(
            self._carry_route(prefix),
            device=device,
            source=ipaddress.ip_address(source_address),
            mtu=mtu,
            rerouted=program is not None,
        )
        self._routes.put_route(route, program)
        self._expected.pop(ipaddress.ip_address(source_address), None)
        self._enforce()

    def uncarry(self, prefix: IpNetwork) -> None:
        """Stop sending packets to ``prefix`` into the circuit; it remains protected."""
        self._routes.delete_route(self._carry_route(prefix))
        self._enforce()

    def release(self, *prefixes: IpNetwork) -> None:
        """End the protection of ``prefixes``, in this order.

        The last protected prefix takes rules and filter along.

        Connections that went through a circuit end with it, as far as this kernel can do it.
        """
        for prefix in prefixes:
            self._routes.delete_route(self._carry_route(prefix))
            abort_orphaned_sockets(prefix)
        # The filter goes first: killed in between, the node leaves what protected() finds.
        self._enforce(released=prefixes)
        for prefix in prefixes:
            self._routes.delete_route(self._unreachable(prefix))
        self._remove_idle_rules()

    def protected(self) -> list[IpNetwork]:
        """Return the protected prefixes, also those that a killed process left."""
        return [r.destination for r in self._installed() if r.kind is RouteKind.UNREACHABLE]

    def close(self) -> None:
        """Give up the right to change the guard; harmless if repeated."""
        self._routes.close()
        self._ownership.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _installed(self) -> list[Route]:
        return self._routes.routes(self._table)

    def _enforce(self, released: Collection[IpNetwork] = ()) -> None:
        routes = [route for route in self._installed() if route.destination not in released]
        if not routes:
            self._settings.restore()
            return
        rules_of = ipsec_guard_filter if self._by_ipsec else guard_filter
        table = rules_of(
            self._filter_name,
            self._mark,
            routes,
            devices=tuple(self._devices),
            expected=tuple(self._expected),
            own_ports=self._own_ports,
        )
        self._filter.replace(replace(table, notes=self._settings.notes()))
        self._settings.apply()

    def _remove_idle_rules(self) -> None:
        needed = {route.destination.version for route in self._installed()}
        for version in {4, 6} - needed:
            if self._routes.has_rule(version, self._table):
                self._routes.delete_rule(self._rule(version))

    def _rule(self, version: int) -> MarkRule:
        mark = self._mark & CLEAR_MASK
        return MarkRule(version, _RULE_PREFERENCE, mark, self._table, others=True, mask=CLEAR_MASK)

    def _unreachable(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNREACHABLE, self._table, _UNREACHABLE_METRIC)

    def _carry_route(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNICAST, self._table, _CARRY_METRIC)
