"""What turns a host into an exit: inner packets out under its own address, replies back in.

::

    exit TUN ──> source is in the pool? ──> forward ──> masquerade ──> outward device
                        else drop             │
                                              └─ to this host, to another inner address,
                                                 to any other device: drop
    outward device ──> belongs to a connection that began inside? ──> MSS clamp ──> exit TUN
                        else drop

Packets from the exit TUN carry the node's firewall mark: a destination that this node's own
user has protected must look no different to the circuits of others, or they could probe for it.

The previous kernel settings are kept as notes in the packet filter table itself, so that a
new process restores what a killed one changed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from overlay.addresses import IpAddress, IpNetwork
from overlay.errors import BackendError
from overlay.exit_policy import ExitPolicy
from overlay.system.destination_guard import NODE_MARK
from overlay.system.egress_wall import install_egress_wall, remove_egress_wall
from overlay.system.exit_limits import (
    ExitLimits,
    limit_rules,
    refused_destinations,
    within_kernel_table,
)
from overlay.system.exit_probe import probe_address, probe_packet, probe_rules
from overlay.system.exit_problems import has_version, outward_devices, used_pools
from overlay.system.exit_wall import after_translation, redirected_connections, unknown_connections
from overlay.system.filter_choice import chosen_filter, find_packet_filter
from overlay.system.fragmenting_device import FragmentingDevice
from overlay.system.ipsec_exit import ipsec_exit_rules
from overlay.system.kept_table import KeptTable
from overlay.system.kernel_settings import KernelSetting, change_setting, read_setting
from overlay.system.normalisation import normalising_rules
from overlay.system.noted_settings import noted, restore_noted
from overlay.system.ownership import LOCK_PREFIX, Ownership
from overlay.system.packet_filter import FilterTable, Hook, PacketFilter, Rule, Verdict
from overlay.system.rtnetlink import MAIN_TABLE, Route, RouteKind, Rtnetlink
from overlay.system.tun import MIN_MTU

__all__ = ["ExitFilter", "ExitPlan", "clear_exit_leftovers", "exit_gateway", "exit_rules"]

_FILTER_NAME: Final = "exit"
_POOL_METRIC: Final = 1


@dataclass(frozen=True, slots=True)
class ExitPlan:
    """Where inner packets come from and may go.

    ``device`` is the exit's TUN device; ``pools`` the networks that inner addresses are taken
    from, at most one of each IP version; ``mtu`` the bytes of the largest inner packet that
    may come in; ``outward`` the devices towards the outside. ``policy`` is given where inner
    packets come out of the kernel's IPsec instead of the device, so that no program sees them:
    then the filter enforces it. ``closed`` are devices that forwarded nothing before.
    ``fragmenting`` is the device that answers over IPv4 pass before IPsec takes them, if any.
    ``refused`` are networks that no circuit reaches whatever the policy says, because this host
    answers there or its gateway does. ``left`` are pools that this host itself has begun to use;
    they are not among ``pools``.
    """

    device: str
    pools: tuple[IpNetwork, ...]
    mtu: int
    outward: tuple[str, ...]
    policy: ExitPolicy | None = None
    closed: tuple[str, ...] = ()
    fragmenting: str | None = None
    limits: ExitLimits | None = None
    refused: tuple[IpNetwork, ...] = ()
    left: tuple[IpNetwork, ...] = ()

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions that the exit serves."""
        return frozenset(pool.version for pool in self.pools)


def clear_exit_leftovers() -> None:
    """Undo what a killed exit left; what a running one has is not touched.

    An exit of the kernel was made after the node's wall, which changes some of the same
    settings: its leftovers go first, or its notes would tell what the wall had made of them.

    Raises:
        BackendError: the kernel refused, or no packet filter works here.
    """
    packet_filter = find_packet_filter()
    if packet_filter.notes(_FILTER_NAME) is None:
        return  # and takes no right that an exit wants that starts in this moment
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


def exit_gateway(pool: IpNetwork) -> IpAddress:
    """Return the pool's first host address: the exit's own, from which its ICMP errors come.

    It must not be lent to a circuit. Without it the kernel would choose another address of
    this host, perhaps a private one, and show it to the source.
    """
    return pool.network_address + 1


class ExitFilter:
    """Everything that an exit changes in the kernel; a context manager that undoes it.

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
    ) -> None:
        """Describe the exit; nothing is changed yet (see :class:`ExitPlan`).

        Without ``outward`` the devices of the default routes are meant. ``fragmenting`` is for
        an exit with a ``policy``.

        Raises:
            BackendError: no packet filter works here.
        """
        self._pools = tuple(pools)
        self._given_outward = tuple(outward)
        self._plan = ExitPlan(
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

    def install(self) -> None:
        """Undo what a killed exit left, then begin to forward; all or nothing.

        Raises:
            BackendError: another exit runs here, or the kernel refused; nothing of this exit
                remains.
        """
        self._ownership = _own_exit()
        try:
            with Rtnetlink() as netlink:
                self._restore()
                self._forward(netlink, self._wanted(netlink))
        except BaseException:
            self.remove()
            raise

    def refresh(self) -> bool:
        """Follow the host's routes and IP versions, and put back what others took away.

        Returns:
            Whether something had to be changed.

        Raises:
            BackendError: the kernel refused.
        """
        if self._ownership is None:
            return False
        if self._walled:  # devices may have appeared
            self._walled = install_egress_wall(self._kept(self._plan), _inside(self._plan))
        with Rtnetlink() as netlink:
            plan = self._wanted(netlink)
            if plan == self._plan and self._stands(netlink):
                return False
            self._forward(netlink, plan)
        self._counted = None  # the new rules count from 0
        return True

    def passed(
        self, write: Callable[[Sequence[bytes]], None], policy: ExitPolicy | None = None
    ) -> frozenset[int]:
        """Return the IP versions whose packets this host forwards, by a probe of each.

        Args:
            write: hands packets to the kernel as if they came out of the exit's device.
            policy: what circuits may reach; the probe is addressed to it.

        Raises:
            BackendError: the packet filter cannot be asked.
        """
        before, self._counted = self._counted or self._filter.counted(_FILTER_NAME) or {}, None
        write([probe_packet(pool, policy or self._plan.policy) for pool in self._plan.pools])
        after = self._filter.counted(_FILTER_NAME) or {}
        return frozenset(v for v, count in after.items() if count > before.get(v, 0))

    def refuse_destinations(self, networks: Iterable[IpNetwork]) -> None:
        """Let no circuit reach these networks from now on, instead of the ones before.

        Raises:
            BackendError: the kernel refused; the networks before stay refused.
        """
        plan = replace(self._plan, refused=tuple(networks))
        if plan == self._plan or self._ownership is None:
            return
        self._table.install(FilterTable(_FILTER_NAME, self._mark, exit_rules(plan), self._notes))
        self._plan, self._counted = plan, None

    def remove(self) -> None:
        """Stop forwarding and restore the kernel's settings; harmless if repeated.

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

    def _wanted(self, netlink: Rtnetlink) -> ExitPlan:
        """Return the plan for the host as it is now."""
        left = used_pools(self._pools, _inside(self._plan))
        pools = tuple(
            pool
            for pool in self._pools
            if pool not in left and has_version(pool.version, self._plan.device)
        )
        outward = self._given_outward or outward_devices(netlink, pools)
        # The kernel's table appears with connection tracking, and its size may change.
        limits = within_kernel_table(self._limits) if self._limits is not None else None
        return replace(self._plan, pools=pools, outward=outward, left=left, limits=limits)

    def _kept(self, plan: ExitPlan) -> list[IpNetwork]:
        """Return the pools whose addresses leave this host over no device."""
        return [pool for pool in self._pools if pool not in plan.left]

    def _stands(self, netlink: Rtnetlink) -> bool:
        """Tell whether everything that was installed is there."""
        self._counted = self._filter.counted(_FILTER_NAME)
        routed = {route.destination for route in netlink.routes(MAIN_TABLE)}
        return (
            self._counted is not None
            and self._table.intact()
            and routed.issuperset(self._plan.pools)
            and all(read_setting(name) in (value, None) for name, value in self._settings)
        )

    def _forward(self, netlink: Rtnetlink, plan: ExitPlan) -> None:
        if plan.policy is not None and not self._notes:
            plan = replace(plan, closed=_closed_devices(plan))
        for pool in set(self._plan.pools).intersection(plan.left):
            _release(netlink, self._plan, pool)
        self._plan, self._settings = plan, tuple(_settings(plan))
        settings = self._settings
        # A setting that was changed before keeps its first note.
        known = {note.partition("=")[0] for note in self._notes}
        new = noted(setting for setting in settings if setting[0] not in known)
        notes = self._notes = (*self._notes, *new)
        # The filter stands before the first packet can be forwarded.
        self._table.install(FilterTable(_FILTER_NAME, self._mark, exit_rules(plan), notes))
        self._walled = install_egress_wall(self._kept(plan), _inside(plan))
        for name, value in settings:
            change_setting(name, value)
        for pool in plan.pools:
            if pool.version == 4:
                change_setting(f"net/ipv4/conf/{plan.device}/forwarding", "1")
            netlink.add_address(plan.device, exit_gateway(pool))
            route = _pool_route(plan, pool)
            netlink.put_route(route, self._program if route.rerouted else None)
            netlink.put_route(_probe_route(plan, pool))

    def _restore(self) -> None:
        restore_noted(self._filter, _FILTER_NAME)
        remove_egress_wall()


def _exists(device: str) -> bool:
    return any(name == device for _, name in socket.if_nameindex())


def _release(netlink: Rtnetlink, plan: ExitPlan, pool: IpNetwork) -> None:
    """Take away the routes and the address of a pool; harmless if they have gone."""
    for route in (_pool_route(plan, pool), _probe_route(plan, pool)):
        if route.device is not None and _exists(route.device):
            netlink.delete_route(route)
    if _exists(plan.device):
        netlink.remove_address(plan.device, exit_gateway(pool))


def _inside(plan: ExitPlan) -> tuple[str, ...]:
    """Return the devices that lead into circuits."""
    return tuple(each for each in (plan.device, plan.fragmenting) if each is not None)


def _pool_route(plan: ExitPlan, pool: IpNetwork) -> Route:
    gateway = exit_gateway(pool)
    route = Route(pool, RouteKind.UNICAST, MAIN_TABLE, _POOL_METRIC, plan.device, gateway)
    if pool.version == 6:
        return replace(route, mtu=max(plan.mtu, MIN_MTU))
    if plan.fragmenting is None:
        return replace(route, mtu=plan.mtu)
    return replace(route, mtu=plan.mtu, device=plan.fragmenting, rerouted=True)


def _probe_route(plan: ExitPlan, pool: IpNetwork) -> Route:
    """Return the route by which strict source checks know where a probe comes from."""
    network = ipaddress.ip_network(probe_address(pool))
    return Route(network, RouteKind.UNICAST, MAIN_TABLE, _POOL_METRIC, plan.device)


def _closed_devices(plan: ExitPlan) -> tuple[str, ...]:
    """Return the devices over which links may come and that forward no IPv4 yet."""
    names = [name for _, name in socket.if_nameindex()]
    return tuple(
        name
        for name in names
        if name not in ("lo", plan.device)
        and not name.startswith(LOCK_PREFIX)
        and read_setting(f"net/ipv4/conf/{name}/forwarding") == "0"
    )


def _settings(plan: ExitPlan) -> list[KernelSetting]:
    """Return the settings an exit needs, in the order in which they must be made.

    IPv4 forwards by incoming device, so no other device of the host begins to. IPv6 knows one
    switch for all, which stops router advertisements from being accepted unless their setting
    is 2 (Linux, ip-sysctl: accept_ra).
    """
    settings: list[KernelSetting] = []
    if 4 in plan.versions:
        for device in plan.outward:
            settings += [
                # A reply's source is looked up with the mark that it gets, not without.
                (f"net/ipv4/conf/{device}/src_valid_mark", "1"),
                (f"net/ipv4/conf/{device}/forwarding", "1"),
            ]
        settings += [(f"net/ipv4/conf/{device}/forwarding", "1") for device in plan.closed]
    if 6 in plan.versions:
        for device in plan.outward:
            name = f"net/ipv6/conf/{device}/accept_ra"
            if read_setting(name) == "1":
                settings.append((name, "2"))
        settings.append(("net/ipv6/conf/all/forwarding", "1"))
    return settings


def exit_rules(plan: ExitPlan) -> tuple[Rule, ...]:
    """Return the exit's packet filter, in the order of a packet's way."""
    probes = [probe_rules(pool, plan.device) for pool in plan.pools]
    passing = [rule for rules, _ in probes for rule in rules]
    return (*passing, *(counting for _, counting in probes), *_circuit_rules(plan))


def _circuit_rules(plan: ExitPlan) -> tuple[Rule, ...]:
    if plan.policy is not None:
        left = (
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, source=pool, ipsec_in=True)
            for pool in plan.left
        )
        return (
            *left,
            *ipsec_exit_rules(
                plan.pools,
                plan.outward,
                plan.policy,
                mtu=plan.mtu,
                closed=plan.closed,
                fragmenting=plan.fragmenting,
                before=lambda pool: _before_policy(plan, pool),
            ),
        )
    return (
        *_entering(plan),
        Rule(hook=Hook.INPUT, verdict=Verdict.DROP, in_device=plan.device),
        *_forwarded(plan),
        *_normalised(plan),
        *_masqueraded(plan),
        *after_translation(plan.pools, _inside(plan)),
    )


def _entering(plan: ExitPlan) -> list[Rule]:
    hook, device = Hook.PREROUTING, plan.device
    rules = [
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device, not_source=pool)
        for pool in plan.pools
    ]
    rules += [
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device, version=version)
        for version in sorted({4, 6} - plan.versions)
    ]
    rules.append(Rule(hook=hook, verdict=Verdict.MARK, in_device=device))
    rules += [
        Rule(hook=hook, verdict=Verdict.RESTORE_MARK, in_device=outward) for outward in plan.outward
    ]
    return rules


def _forwarded(plan: ExitPlan) -> list[Rule]:
    hook, device = Hook.FORWARD, plan.device
    return [
        *(
            Rule(hook=hook, verdict=Verdict.DROP, not_in_device=device, source=pool)
            for pool in plan.pools
        ),
        *(unknown_connections(pool) for pool in plan.pools),
        *(redirected_connections(pool) for pool in plan.pools),
        *(rule for pool in plan.pools for rule in _before_policy(plan, pool)),
        Rule(hook=hook, verdict=Verdict.CLAMP_MSS, in_device=device),
        Rule(hook=hook, verdict=Verdict.CLAMP_MSS, out_device=device),
        *(
            Rule(hook=hook, verdict=Verdict.DROP, in_device=device, destination=pool)
            for pool in plan.pools
        ),
        *(
            Rule(hook=hook, verdict=Verdict.ACCEPT, in_device=device, out_device=outward)
            for outward in plan.outward
        ),
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device),
        Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=device, reply=True),
        Rule(hook=hook, verdict=Verdict.DROP, out_device=device),
    ]


def _before_policy(plan: ExitPlan, pool: IpNetwork) -> Iterator[Rule]:
    """Yield what refuses packets of circuits whatever the exit policy says."""
    yield from refused_destinations(pool, plan.refused)
    if plan.limits is not None:
        yield from limit_rules(pool, plan.limits, len(plan.versions))


def _normalised(plan: ExitPlan) -> list[Rule]:
    """Make packets alike in both directions; a program does what iptables cannot, inwards."""
    hook, rules = Hook.POSTROUTING, list[Rule]()
    for pool in plan.pools:
        outgoing = Rule(hook=hook, verdict=Verdict.ACCEPT, source=pool)
        answer = Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=plan.device, destination=pool)
        rules += normalising_rules(outgoing, drop_labels=False)
        rules += normalising_rules(answer, at_most=plan.mtu, drop_labels=False)
    return rules


def _masqueraded(plan: ExitPlan) -> list[Rule]:
    return [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.MASQUERADE, source=pool, out_device=outward)
        for pool in plan.pools
        for outward in plan.outward
    ]
