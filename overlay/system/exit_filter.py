"""Make a host an exit: inner packets leave with its own address, and replies return to circuits.

::

    exit TUN ──> source is in the pool? ──> forward ──> masquerade ──> outward device
                        else drop             │
                                              └─ to this host, to another inner address,
                                                 to any other device: drop
    outward device ──> belongs to a connection that began inside? ──> MSS clamp ──> exit TUN
                        else drop

Packets from the exit TUN get the node's firewall mark, so that the kill switch does not affect
them. Otherwise circuits of other nodes could find out which destinations this node's user has
protected.

The previous kernel settings are notes in the packet filter table itself. So a new process can
restore the settings that a killed one changed.

Reasons: docs/decisions/0009.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Self

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.exit_policy import ExitPolicy
from overlay.system.exit_egress import install_egress_wall, remove_egress_wall
from overlay.system.exit_limits import ExitLimits, within_kernel_table
from overlay.system.exit_networks import ExitNetworks, exit_gateway, exit_rules
from overlay.system.exit_probe import probe_address, probe_packet
from overlay.system.exit_problems import (
    ExitProblem,
    forwarding_problem,
    has_version,
    used_pools,
    version_problem,
)
from overlay.system.exit_settings import closed_devices, exit_settings, was_closed
from overlay.system.exit_uplinks import ExitUplinks
from overlay.system.filter_choice import chosen_filter, find_packet_filter
from overlay.system.fragmenting_device import FragmentingDevice
from overlay.system.kept_table import KeptTable
from overlay.system.kernel_settings import KernelSetting, change_setting, read_setting
from overlay.system.kill_switch import NODE_MARK
from overlay.system.noted_settings import noted, restore_noted
from overlay.system.own_links import own_links
from overlay.system.ownership import Ownership
from overlay.system.packet_filter import FilterTable, PacketFilter
from overlay.system.rtnetlink import MAIN_TABLE, Route, RouteKind, Rtnetlink
from overlay.system.tun import MIN_MTU

__all__ = ["ExitFilter", "clear_exit_leftovers"]

_FILTER_NAME: Final = "exit"
_POOL_METRIC: Final = 1


def clear_exit_leftovers() -> None:
    """Undo the changes of a killed exit; those of a running exit stay.

    On the kernel backend, the exit is installed after ``IpsecFirewall``, which changes some of the
    same settings. So the exit's leftovers must be undone first. Otherwise its notes would restore
    the values that the firewall had set.

    Raises:
        BackendError: the kernel refused, or no packet filter works here.
    """
    packet_filter = find_packet_filter()
    if packet_filter.notes(_FILTER_NAME) is None:
        return  # without taking the ownership, which a starting exit may need at this moment
    try:
        ownership = _own_exit()
    except BackendError:
        return
    try:
        restore_noted(packet_filter, _FILTER_NAME)
        remove_egress_wall()
    finally:
        ownership.release()


def _own_exit() -> Ownership:
    return Ownership("exit", "stop it, or run this exit on another host")


class ExitFilter:
    """All changes of an exit in the kernel; a context manager that undoes them.

    ::

        with ExitFilter("exit0", (pool4, pool6)): ...
    """

    def __init__(
        self,
        device: str,
        pools: Sequence[IpNetwork],
        *,
        mtu: int = MIN_MTU,
        outward: Sequence[str] = (),
        mark: int = NODE_MARK,
        packet_filter: PacketFilter | None = None,
        policy: ExitPolicy | None = None,
        fragmenting: FragmentingDevice | None = None,
        limits: ExitLimits | None = None,
        refused: Iterable[IpNetwork] = (),
        own_links_opened: Iterable[IpNetwork] | None = (),
    ) -> None:
        """Prepare; nothing is changed yet. For most arguments see :class:`ExitNetworks`.

        Args:
            device: name of the exit's TUN device.
            pools: networks of inner addresses, at most one per IP version.
            mtu: size in bytes of the largest inner packet.
            outward: uplinks of the exit; if empty, the host's routes decide.
            mark: the node's firewall mark.
            packet_filter: the packet filter to use; None selects the host's.
            policy: exit policy that the filter enforces; only for the kernel backend.
            fragmenting: the fragmenting device; only together with a ``policy``.
            limits: limits of connections, if any.
            refused: networks that no circuit reaches.
            own_links_opened: networks on this host's links that circuits may reach; None
                opens all of them.

        Raises:
            BackendError: no packet filter works here.
        """
        self._pools = tuple(pools)
        self._ways = ExitUplinks(device, mark, tuple(outward))
        self._opened = None if own_links_opened is None else tuple(own_links_opened)
        self._plan = ExitNetworks(
            device,
            self._pools,
            mtu,
            tuple(outward),
            policy,
            fragmenting=fragmenting.name if fragmenting is not None else None,
            refused=tuple(refused),
        )
        self._limits = limits
        self._settings: tuple[KernelSetting, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._counted: dict[int, int] | None = None
        self._program = fragmenting.program if fragmenting is not None else None
        self._filter = chosen_filter(packet_filter)
        self._table = KeptTable(self._filter)
        self._mark = mark
        self._ownership: Ownership | None = None
        self._walled = False
        self._sizes: dict[IpNetwork, int] = {}

    def install(self) -> None:
        """Undo the changes of a killed exit, then begin to forward; all or nothing.

        Raises:
            BackendError: another exit runs here, or the kernel refused; all changes of this exit
                are undone.
        """
        self._ownership = _own_exit()
        try:
            with Rtnetlink() as netlink:
                self._restore()
                self._forward(netlink, replace(self._wanted(), outward=(), outward6=None))
                self._follow(netlink)
        except BaseException:
            self.remove()
            raise

    def refresh(self) -> bool:
        """Adapt to the host's routes and IP versions, and restore what other programs removed.

        Returns:
            Whether something was changed.

        Raises:
            BackendError: the kernel refused, or another exit runs here by now.
        """
        if self._ownership is None:
            return False
        self._ownership.retake()
        if self._walled:  # new devices need the egress program
            self._walled = install_egress_wall(self._kept(self._plan), self._plan.inside)
        with Rtnetlink() as netlink:
            return self._follow(netlink)

    def way_problems(self) -> list[ExitProblem]:
        """Return why circuits have no uplink, at the time of the last :meth:`refresh`."""
        return list(self._ways.problems)

    def not_forwarded(self, pool: IpNetwork) -> ExitProblem:
        """Return the problem that keeps this host from forwarding the probe of a pool."""
        device = self._plan.device
        return version_problem(pool.version, device) or forwarding_problem(pool, device)

    @property
    def own_links(self) -> tuple[IpNetwork, ...]:
        """The networks on this host's links that no circuit reaches."""
        return self._plan.own_links

    def passed(
        self, write: Callable[[Sequence[bytes]], None], policy: ExitPolicy | None = None
    ) -> frozenset[int]:
        """Return the IP versions whose probe packet this host forwards.

        Args:
            write: function that passes packets to the kernel as input of the exit's device.
            policy: exit policy that determines the destination of the probe.

        Raises:
            BackendError: the counters of the packet filter could not be read.
        """
        before, self._counted = self._counted or self._filter.counted(_FILTER_NAME) or {}, None
        write([probe_packet(pool, policy or self._plan.policy) for pool in self._plan.pools])
        after = self._filter.counted(_FILTER_NAME) or {}
        return frozenset(v for v, count in after.items() if count > before.get(v, 0))

    def refuse_destinations(self, networks: Iterable[IpNetwork]) -> None:
        """Replace the networks that no circuit may reach.

        Raises:
            BackendError: the kernel refused; the previous networks stay refused.
        """
        plan = replace(self._plan, refused=tuple(networks))
        if plan == self._plan or self._ownership is None:
            return
        self._table.install(FilterTable(_FILTER_NAME, self._mark, exit_rules(plan), self._notes))
        self._plan, self._counted = plan, None

    def resize(self, inner_addresses: Iterable[bytes], packet_bytes: int) -> None:
        """Forward answers of up to ``packet_bytes`` bytes to these inner addresses.

        With 0, their size is that of the whole pool again. IPv4 needs the fragmenting device,
        because a packet that may be fragmented would otherwise be encrypted as a whole.

        Raises:
            BackendError: the kernel refused; the former size stays, or that of the pool.
        """
        if self._ownership is None:
            return
        with Rtnetlink() as netlink:
            for address in inner_addresses:
                host = ipaddress.ip_network(address)
                if packet_bytes > self._plan.mtu:
                    self._put_size(netlink, host, packet_bytes)
                elif self._sizes.pop(host, 0):
                    self._drop_size(netlink, host)

    def _put_size(self, netlink: Rtnetlink, host: IpNetwork, packet_bytes: int) -> None:
        route = self._host_route(host, packet_bytes)
        if route is None or self._sizes.get(host) == packet_bytes:
            return
        netlink.put_route(route, self._program if route.rerouted else None)
        self._sizes[host] = packet_bytes

    def _drop_size(self, netlink: Rtnetlink, host: IpNetwork) -> None:
        route = self._host_route(host, self._plan.mtu)
        if route is not None and route.device is not None and _exists(route.device):
            netlink.delete_route(route)

    def _host_route(self, host: IpNetwork, packet_bytes: int) -> Route | None:
        """Return the route for one inner address, None if the exit serves no such pool."""
        plan = self._plan
        pool = next((p for p in plan.pools if p.version == host.version and host[0] in p), None)
        if pool is None:
            return None
        if pool.version == 4 and plan.fragmenting is None:
            return None
        return replace(_pool_route(replace(plan, mtu=packet_bytes), pool), destination=host)

    def remove(self) -> None:
        """Stop forwarding and restore the kernel's settings; may be called repeatedly.

        Raises:
            BackendError: the kernel refused.
        """
        ownership, self._ownership = self._ownership, None
        self._notes = ()
        self._table.forget()
        if ownership is None:
            return
        try:
            with Rtnetlink() as netlink:
                while self._sizes:
                    self._drop_size(netlink, self._sizes.popitem()[0])
                for pool in self._plan.pools:
                    _release(netlink, self._plan, pool)
            self._restore()
        finally:
            ownership.release()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _wanted(self) -> ExitNetworks:
        """Return the configuration for the current state of the host."""
        left = used_pools(self._pools, self._plan.inside)
        pools = tuple(
            pool
            for pool in self._pools
            if pool not in left and has_version(pool.version, self._plan.device)
        )
        outward = self._ways.find(pools)
        # The size of the connection table is known only after connection tracking was loaded, and
        # an operator may change it. So it is read each time.
        limits = within_kernel_table(self._limits) if self._limits is not None else None
        return replace(
            self._plan,
            pools=pools,
            outward=outward[4],
            outward6=outward[6] if outward[6] != outward[4] else None,
            left=left,
            limits=limits,
            own_links=own_links(self._opened, self._plan.inside, self._ways.ways),
            closed=closed_devices(self._plan, self._notes),
            closed6=self._plan.policy is None and was_closed(6, self._notes),
        )

    def _follow(self, netlink: Rtnetlink) -> bool:
        """Install the wanted state unless it is in place; tell whether something was changed."""
        changed = False
        # Uplinks can only be looked up once the exit's device has its routes. So the first round
        # may install these, and a second round is necessary.
        for _ in range(2):
            plan = self._wanted()
            if plan == self._plan and self._stands(netlink):
                break
            self._forward(netlink, plan)
            self._counted = None  # the new rules count from 0
            changed = True
        return changed

    def _kept(self, plan: ExitNetworks) -> list[IpNetwork]:
        """Return the pools whose addresses must not leave this host over any device."""
        return [pool for pool in self._pools if pool not in plan.left]

    def _stands(self, netlink: Rtnetlink) -> bool:
        """Tell whether everything that was installed is still in place."""
        self._counted = self._filter.counted(_FILTER_NAME)
        routed = {route.destination for route in netlink.routes(MAIN_TABLE)}
        return (
            self._counted is not None
            and self._table.intact()
            and routed.issuperset((*self._plan.pools, *self._sizes))
            and all(read_setting(name) in (value, None) for name, value in self._settings)
            and set(self._settings).issuperset(exit_settings(self._plan))
        )

    def _forward(self, netlink: Rtnetlink, plan: ExitNetworks) -> None:
        for pool in set(self._plan.pools).intersection(plan.left):
            for host in [each for each in self._sizes if each[0] in pool]:
                del self._sizes[host]
                self._drop_size(netlink, host)
            _release(netlink, self._plan, pool)
        settings = exit_settings(plan, before=self._settings)
        # A setting that was changed before keeps its first note, which has the original value.
        known = {note.partition("=")[0] for note in self._notes}
        new = noted(setting for setting in settings if setting[0] not in known)
        notes = self._notes = (*self._notes, *new)
        plan = replace(plan, closed=closed_devices(plan, notes))
        plan = replace(plan, closed6=plan.policy is None and was_closed(6, notes))
        self._plan, self._settings = plan, settings
        # Install the filter before the settings and routes that permit forwarding.
        self._table.install(FilterTable(_FILTER_NAME, self._mark, exit_rules(plan), notes))
        self._walled = install_egress_wall(self._kept(plan), plan.inside)
        for name, value in settings:
            change_setting(name, value)
        for pool in plan.pools:
            if pool.version == 4:
                change_setting(f"net/ipv4/conf/{plan.device}/forwarding", "1")
            netlink.add_address(plan.device, exit_gateway(pool))
            route = _pool_route(plan, pool)
            netlink.put_route(route, self._program if route.rerouted else None)
            netlink.put_route(_probe_route(plan, pool))
        self._put_sizes_back(netlink)

    def _put_sizes_back(self, netlink: Rtnetlink) -> None:
        """Restore the routes of single inner addresses; those of a lost pool are forgotten."""
        sizes, self._sizes = self._sizes, {}
        for host, packet_bytes in sizes.items():
            self._put_size(netlink, host, packet_bytes)

    def _restore(self) -> None:
        restore_noted(self._filter, _FILTER_NAME)
        remove_egress_wall()


def _exists(device: str) -> bool:
    return any(name == device for _, name in socket.if_nameindex())


def _release(netlink: Rtnetlink, plan: ExitNetworks, pool: IpNetwork) -> None:
    """Remove the routes and the address of a pool; they need not exist."""
    for route in (_pool_route(plan, pool), _probe_route(plan, pool)):
        if route.device is not None and _exists(route.device):
            netlink.delete_route(route)
    if _exists(plan.device):
        netlink.remove_address(plan.device, exit_gateway(pool))


def _pool_route(plan: ExitNetworks, pool: IpNetwork) -> Route:
    gateway = exit_gateway(pool)
    route = Route(pool, RouteKind.UNICAST, MAIN_TABLE, _POOL_METRIC, plan.device, gateway)
    if pool.version == 6:
        return replace(route, mtu=max(plan.mtu, MIN_MTU))
    if plan.fragmenting is None:
        return replace(route, mtu=plan.mtu)
    return replace(route, mtu=plan.mtu, device=plan.fragmenting, rerouted=True)


def _probe_route(plan: ExitNetworks, pool: IpNetwork) -> Route:
    """Return the route that makes strict source checks (rp_filter) accept a probe."""
    network = ipaddress.ip_network(probe_address(pool))
    return Route(network, RouteKind.UNICAST, MAIN_TABLE, _POOL_METRIC, plan.device)
