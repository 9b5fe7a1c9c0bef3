"""The running node: sockets, TUN devices and timers around the control plane.

::

    nursery ─┬─ one task a UDP socket     batch -> ControlPlane.receive
             ├─ one task a TUN device     batch -> DataPath
             └─ timers                    sleep to the next deadline, or until woken

Nothing is awaited between reading a core's state and acting on it: every batch is handled
in one go, and whoever changes a core from outside calls ``_settle``, which also wakes the
timers. Leaving the node's context closes every path first, then sockets and devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

import trio

from overlay.addresses import Endpoint, InnerAddress, IpNetwork, NodeId, OverlayAddress
from overlay.clock import Clock
from overlay.config import Configuration
from overlay.control.model import OpenPathRequest, PathReport, PeerReport, StatusReport
from overlay.control.server import serve_control
from overlay.dht.descriptor import is_public
from overlay.dht.topology_store import TopologyStore
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.logs import EventLog
from overlay.node.assembly import Surroundings, build_control_plane, build_engine, path_mtu
from overlay.node.exit_side import ExitSide
from overlay.node.own_descriptor import RESIGN_INTERVAL_S, own_descriptor, roles_of
from overlay.node.paths import RequestedPath
from overlay.node.reports import path_report, peer_report, status_report
from overlay.node.sockets import Sockets
from overlay.node.source_side import SourceSide
from overlay.system.tun import TunDevice

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]

_SAVE_INTERVAL_S = 30.0
_REFRESH_INTERVAL_S = 10.0
_CLOSE_GRACE_S = 0.3
"""How long a stopping node keeps its sockets open, so that its goodbyes leave."""

_log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class AnonymousPath:
    """An open path: from now on any program's packets to ``destination`` travel through it."""

    number: int
    destination: IpNetwork
    _report: Callable[[], PathReport]

    def report(self) -> PathReport:
        """Return how the path is now: hops, inner addresses, round-trip time."""
        return self._report()


class OverlayNode:
    """One participant of the overlay; an async context manager.

    Args:
        configuration: what the user wants.
        identity: this node's keys.
        rng: randomness; the system's unless a test seeds it.
        engine: the IPsec engine; the configured one unless a laboratory watches it.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        *,
        rng: Random | None = None,
        engine: UserspaceEngine | None = None,
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._rng = rng or SystemRandom()
        self._engine = engine or build_engine(configuration, self._rng)
        self._lifetime: AbstractAsyncContextManager[None] | None = None
        self._files_set_aside = 0
        self._stopped = trio.Event()
        self._wake = trio.Event()

    # -- life ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._lifetime = self._running()
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        lifetime, self._lifetime = self._lifetime, None
        return await lifetime.__aexit__(kind, error, trace) if lifetime is not None else None

    async def wait_stopped(self) -> None:
        """Return when :meth:`stop` was called."""
        await self._stopped.wait()

    def stop(self) -> None:
        """Ask whoever runs the node to leave its context."""
        self._stopped.set()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self._clock = Clock.system()
        self._started_at = self._clock.now()
        with ExitStack() as stack:
            self._open(stack)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for endpoint_socket in self._sockets:
                    nursery.start_soon(self._receive, endpoint_socket.receive_batch)
                if self._exit is not None:
                    nursery.start_soon(self._read_exit_device, self._exit.device)
                nursery.start_soon(self._run_timers)
                self._join()
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self._say_goodbye()
                    nursery.cancel_scope.cancel()

    def _open(self, stack: ExitStack) -> None:
        """Take everything of the operating system that the node needs; the stack gives it back."""
        configuration, network = self._configuration, self._configuration.network
        self._sockets = stack.enter_context(Sockets(network.listen))
        self._endpoints = network.advertised or self._sockets.endpoints_towards(network.bootstrap)
        if not self._endpoints:
            raise ConfigurationError(
                "[network] listen is a wildcard and nothing tells at which address others reach "
                'this node: write advertise = ["ADDRESS:PORT"].'
            )
        self._store = stack.enter_context(
            TopologyStore(configuration.node.state_dir / "topology.sqlite", network.network_id)
        )
        inner = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
        exit_side = ExitSide(inner) if configuration.roles.exit else None
        self._exit = stack.enter_context(exit_side) if exit_side is not None else None
        self._source = SourceSide(self._open_source_device, path_mtu=path_mtu(configuration))
        stack.callback(self._source.close)
        self._plane = build_control_plane(
            configuration,
            self._identity,
            Surroundings(
                network=self._sockets,
                guard=self._source,
                local_address=self._sockets.local_endpoint,
                local_addresses=self._exit.own_addresses if self._exit is not None else frozenset,
                forget_inner_addresses=self._forget,
            ),
            engine=self._engine,
            endpoints=self._endpoints,
            rng=self._rng,
        )
        stack.callback(self._engine.flush)
        if self._exit is not None:
            self._plane.datapath.exit_device = self._exit.device

    def _join(self) -> None:
        """Start from what is remembered and from the configured peers, whichever answers."""
        now, plane = self._clock.now(), self._plane
        self._report_set_aside()
        for descriptor in self._store.load(now).descriptors:
            plane.table.add(descriptor, now)
        plane.dht.seed(plane.table.view(now), now)
        peers = [*self._configuration.network.bootstrap]
        if not len(plane.table):
            peers += [hint.endpoint for hint in self._store.bootstrap_hints()]
        private = self._configuration.network.allow_private_endpoints
        plane.dht.bootstrap(
            [p for p in peers if p not in self._endpoints and (private or is_public(p))], now
        )
        self._publish(now)
        plane.chores.every(RESIGN_INTERVAL_S, self._publish, first=now + RESIGN_INTERVAL_S)
        plane.chores.every(_SAVE_INTERVAL_S, self._save, first=now + _SAVE_INTERVAL_S / 10)
        if self._exit is not None:
            plane.chores.every(_REFRESH_INTERVAL_S, self._exit.refresh, first=now)
        selection = self._configuration.selection
        for destination in self._source.leftovers():
            plane.paths.adopt(
                destination, hops=selection.hops, strategy=selection.strategy, now=now
            )
        self._settle(now)

    async def _say_goodbye(self) -> None:
        now = self._clock.now()
        for path in self._plane.paths.all():
            self._plane.paths.close(path.number, now)
        self._plane.circuits.close_all(now)
        self._plane.dht.leave(now)
        self._plane.settle(now)
        with trio.move_on_after(_CLOSE_GRACE_S):
            await self._run_timers()
        now = self._clock.now()
        self._plane.links.close_all(now)
        self._plane.settle(now)
        self._save(now)

    # -- tasks -----------------------------------------------------------------------

    async def _receive(
        self, receive_batch: Callable[[], Awaitable[list[tuple[bytes, Endpoint]]]]
    ) -> None:
        while True:
            batch = await receive_batch()
            self._plane.receive(batch, self._clock.now())
            self._wake_timers()

    async def _read_source_device(self, device: TunDevice) -> None:
        while True:
            packets = await device.read_batch()
            self._plane.datapath.from_source_device(packets, self._clock.now())

    async def _read_exit_device(self, device: TunDevice) -> None:
        while True:
            packets = await device.read_batch()
            self._plane.datapath.send(packets, self._clock.now())

    async def _run_timers(self) -> None:
        while True:
            deadline = self._clock.to_trio(self._plane.next_deadline())
            with trio.move_on_at(deadline):
                await self._wake.wait()
            self._plane.handle_deadline(self._clock.now())

    def _wake_timers(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    def _settle(self, now: float) -> None:
        self._plane.settle(now)
        self._wake_timers()

    # -- chores ----------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        if not roles_of(self._configuration):
            return  # a node that serves nobody has nothing to tell
        suites = self._engine.capabilities().suites
        descriptor = own_descriptor(
            self._configuration,
            self._identity,
            endpoints=self._endpoints,
            esp_suites=suites,
            now=now,
        )
        self._plane.dht.publish(descriptor, now)

    def _save(self, now: float) -> None:
        self._store.save(self._plane.table, now)
        self._report_set_aside()

    def _report_set_aside(self) -> None:
        while self._files_set_aside < len(self._store.set_aside):
            self._files_set_aside += 1
            _log.warning("topology.damaged_file_set_aside")

    def _open_source_device(self) -> TunDevice:
        device = TunDevice.open("anon%d", max(path_mtu(self._configuration), 1280))
        self._plane.datapath.source_device = device
        self._nursery.start_soon(self._read_source_device, device)
        return device

    def _forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        if self._exit is not None:
            self._exit.forget(inner_addresses)

    # -- what the user asks ----------------------------------------------------------

    @asynccontextmanager
    async def anonymous_path(
        self,
        destination: IpNetwork,
        *,
        hops: int | None = None,
        strategy: str | None = None,
        via: Sequence[NodeId | OverlayAddress] = (),
    ) -> AsyncIterator[AnonymousPath]:
        """Carry packets to ``destination`` through an anonymous circuit while inside.

        Args:
            destination: an address (a /32 or /128) or a prefix.
            hops: Mix-nodes between here and there, the exit included; configured if None.
            strategy: a path selection strategy's name; configured if None.
            via: NodeIds or overlay addresses of the first hops, in order.

        Raises:
            PathError: no path could be had; nothing of it remains.
            ConfigurationError: the request itself is not possible.
        """
        report = await self.open_path(OpenPathRequest(destination, hops, strategy, tuple(via)))
        number = report.number
        try:
            yield AnonymousPath(number, destination, lambda: self._path_report(number))
        finally:
            with contextlib.suppress(ConfigurationError):  # closed from elsewhere meanwhile
                self._close(number)

    async def open_path(self, request: OpenPathRequest) -> PathReport:
        """Open a path and return when it carries packets (implements ``ControlService``).

        Raises:
            PathError: no path could be had.
            ConfigurationError: the request is not possible.
        """
        now, selection = self._clock.now(), self._configuration.selection
        path = self._plane.paths.request(
            request.destination,
            hops=request.hops
            or (len(request.via) if request.strategy == "explicit" else 0)
            or selection.hops,
            strategy=request.strategy or selection.strategy,
            via=tuple(self._node_id(via) for via in request.via),
            now=now,
        )
        self._settle(now)
        try:
            await path.settled.wait()
        except trio.Cancelled:
            self._close(path.number)
            raise
        if path.error is not None:
            raise path.error
        return self._report(path)

    async def close_path(self, number: int | None) -> int:
        """Close one path, or all (None); return how many (implements ``ControlService``)."""
        paths = self._plane.paths
        numbers = [path.number for path in paths.all()] if number is None else [number]
        for each in numbers:
            self._close(each)
        await trio.lowlevel.checkpoint()
        return len(numbers)

    def status(self) -> StatusReport:
        """Return how the node is (implements ``ControlService``)."""
        plane = self._plane
        counters = dict(self._sockets.counters())
        counters |= self._engine.association_counts()
        counters |= {
            "packets from host": plane.datapath.packets_from_host,
            "packets to host": plane.datapath.packets_to_host,
        }
        return status_report(
            self._configuration,
            self._identity,
            plane,
            uptime_s=self._clock.now() - self._started_at,
            roles=roles_of(self._configuration),
            counters=counters,
        )

    def peers(self) -> list[PeerReport]:
        """Return the Mix-nodes of the topology table (implements ``ControlService``)."""
        now, plane = self._clock.now(), self._plane
        return [
            peer_report(descriptor, linked=descriptor.overlay_address in plane.neighbours, now=now)
            for descriptor in plane.table.view(now)
        ]

    def paths(self) -> list[PathReport]:
        """Return the paths that the user asked for (implements ``ControlService``)."""
        return [self._report(path) for path in self._plane.paths.all()]

    def _close(self, number: int) -> None:
        now = self._clock.now()
        self._plane.paths.close(number, now)
        self._settle(now)

    def _node_id(self, named: NodeId | OverlayAddress) -> NodeId:
        """Return the NodeId of a hop that the user named by NodeId or overlay address."""
        if len(named) != 16:
            return NodeId(named)
        descriptor = self._plane.table.by_overlay_address(OverlayAddress(named))
        if descriptor is None:
            raise ConfigurationError("a node named in via is not known; see: overlay peers.")
        return descriptor.node_id

    def _path_report(self, number: int) -> PathReport:
        return self._report(self._plane.paths.get(number))

    def _report(self, path: RequestedPath) -> PathReport:
        circuits = {circuit.number: circuit for circuit in self._plane.circuits.circuits()}
        circuit = circuits.get(path.circuit) if path.circuit is not None else None
        mtu = path_mtu(self._configuration)
        return path_report(path, circuit, now=self._clock.now(), mtu=mtu)


async def run_node(
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    engine: UserspaceEngine | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its control socket until it is told to stop, or cancelled.

    ``engine`` is the configured one unless a laboratory watches its own.
    """
    node = OverlayNode(configuration, identity, engine=engine)
    async with node, trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, configuration.node.control_socket)
        task_status.started()
        _log.info("node.up")
        await node.wait_stopped()
        nursery.cancel_scope.cancel()
