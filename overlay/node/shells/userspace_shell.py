"""The userspace backend in the operating system: TUN devices, and an exit's filter around one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

import trio

from overlay.addresses import InnerAddress
from overlay.config import Configuration
from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.node.assembly import build_datapath, path_mtu, segment_bytes
from overlay.node.exit_destinations import exit_limits, opened_links
from overlay.node.exit_role import ExitRole
from overlay.node.shells.enforcement import Enforced
from overlay.node.shells.exit_side import ExitSide
from overlay.node.shells.operating_system import OperatingSystem, Tun
from overlay.node.shells.packet_shell import BackendChoice, ShellHost
from overlay.node.shells.packet_transport import DatagramSink, PacketEngine
from overlay.node.shells.source_side import SourceDevice
from overlay.paths.requested_path import RequestedPath
from overlay.system.tun import MIN_MTU

__all__ = ["UserspaceShell"]

_REFRESH_INTERVAL_S = 10.0
_RETRY_INTERVAL_S = 1.0

_log = EventLog(__name__)


class UserspaceShell:
    """Implements ``overlay.node.shells.packet_shell.PacketShell``; owner of the TUN devices."""

    def __init__(
        self,
        configuration: Configuration,
        host: OperatingSystem,
        network: DatagramSink,
        engine: PacketEngine,
        reason: str,
    ) -> None:
        """Take what an exit needs; what a source needs is taken with its first path.

        Raises:
            BackendError: the operating system refused.
            ConfigurationError: a plug-in cannot be had.
        """
        self.choice = BackendChoice(engine.capabilities().name, reason)
        self.backend = engine
        self._node: ShellHost | None = None
        with ExitStack() as opened:
            inner = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
            self._path_mtu = mtu = path_mtu(configuration)
            exit_side = (
                ExitSide(
                    host,
                    inner,
                    mtu,
                    segment_bytes(configuration),
                    exit_limits(configuration),
                    configuration.exit_policy(),
                    opened_links(configuration),
                )
                if configuration.roles.exit
                else None
            )
            self._exit = opened.enter_context(exit_side) if exit_side is not None else None
            self.kill_switch = SourceDevice(
                host,
                device_mtu=max(mtu, MIN_MTU),
                path_mtu=mtu,
                segment_bytes=segment_bytes(configuration),
                device_opened=self._source_device_opened,
            )
            opened.callback(self.kill_switch.close)
            self.path = build_datapath(configuration, engine, network, self.own_addresses)
            opened.callback(engine.flush)
            self._opened = opened.pop_all()
        if self._exit is not None:
            self.path.exit_device = self._exit.device

    @property
    def enforced(self) -> tuple[Enforced, ...]:
        """The kill switch with its inner addresses, and the addresses that an exit refuses."""
        return (self.kill_switch,) if self._exit is None else (self.kill_switch, self._exit)

    def start(self, node: ShellHost) -> None:
        """Start to read the exit's device; the source's is read as soon as there is one."""
        self._node = node
        if self._exit is not None:
            node.spawn(self._read_exit_device, node, self._exit)
            node.cores.periodic_tasks.every(
                _REFRESH_INTERVAL_S, "addresses", self._exit.refresh, first=node.now()
            )

    @property
    def exit_role(self) -> ExitRole | None:
        """What this node can do as an exit now; None if it is none."""
        return self._exit.role if self._exit is not None else None

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses that an exit lets no circuit reach."""
        return self._exit.own_addresses() if self._exit is not None else frozenset()

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Let an exit's circuits reach none of these packed addresses."""
        if self._exit is not None:
            self._exit.refuse_destinations(addresses)

    @property
    def probed_packet_bytes(self) -> int | None:
        """None, because links carry what exceeds a datagram in pieces."""
        return None

    def path_mtu(self, path: RequestedPath) -> int:  # noqa: ARG002 - the Protocol's signature
        """Return the setting, which is the same for all paths."""
        return self._path_mtu

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Forget every tracked connection of a circuit that ended."""
        if self._exit is not None:
            self._exit.forget(inner_addresses)

    @property
    def unforgotten(self) -> int:
        """How many inner addresses' connections could not be forgotten."""
        return self._exit.unforgotten if self._exit is not None else 0

    def close(self) -> None:
        """Remove SAs, devices and filters."""
        self._opened.close()

    def _source_device_opened(self, device: Tun) -> None:
        if self._node is not None:
            self.path.source_device = device
            self._node.spawn(self._read_source_device, self._node, device)

    async def _read_source_device(self, node: ShellHost, device: Tun) -> None:
        while True:
            try:
                packets = await device.read_batch()
            except (BackendError, trio.ClosedResourceError):
                self._source_device_lost(node)
                return
            self.path.from_source_device(packets, node.now())
            self._replace_worn(node)

    async def _read_exit_device(self, node: ShellHost, exit_side: ExitSide) -> None:
        device: Tun | None = exit_side.device
        while device is not None:
            try:
                packets = await device.read_batch()
            except (BackendError, trio.ClosedResourceError):
                device = await self._replaced_exit_device(exit_side)
                continue
            self.path.from_exit_device(packets, node.now())
            self._replace_worn(node)

    async def _replaced_exit_device(self, exit_side: ExitSide) -> Tun | None:
        """Replace the exit's device, because another program removed it; repeat until it works."""
        _log.warning("exit.device_lost")
        self.path.exit_device = None
        told = False
        while True:
            try:
                device = exit_side.replace_device()
            except BackendError as error:
                if not told:
                    _log.warning("exit.device_not_replaced", reason=Word(error))
                told = True
                await trio.sleep(_RETRY_INTERVAL_S)
            else:
                self.path.exit_device = device
                return device

    def _replace_worn(self, node: ShellHost) -> None:
        """SAs at a soft limit are replaced now, not at the next deadline."""
        if self.backend.has_soft_expired:
            node.settle(node.now())

    def _source_device_lost(self, node: ShellHost) -> None:
        """Build every path anew, with a new device: another program removed or renamed it."""
        _log.warning("source.device_lost")
        self.path.source_device = None
        self.kill_switch.device_lost()
        now = node.now()
        node.cores.paths.rebuild_all(now)
        node.settle(now)
