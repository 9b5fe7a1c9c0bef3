"""What a backend has towards the operating system: devices, sockets, filters and their tasks.

Each backend implements it (:mod:`.userspace_shell`, :mod:`.kernel_shell`). The running node knows
only this Protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from overlay.addresses import InnerAddress, IpNetwork
from overlay.node.exit_role import ExitRole
from overlay.node.node_cores import NodeCores
from overlay.node.shells.enforcement import Enforced
from overlay.node.shells.packet_transport import Arrived, NodeBackend, PacketTransport
from overlay.node.shells.source_kill_switch import UnprotectedDestinations
from overlay.paths.path_services import KillSwitchService
from overlay.paths.requested_path import RequestedPath

__all__ = ["BackendChoice", "PacketShell", "ShellHost", "SourceKillSwitch"]


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backend runs, and the reason, as a clause for the user."""

    name: str
    reason: str


class SourceKillSwitch(KillSwitchService, Protocol):
    """The kill switch as the start of the node uses it."""

    def leftovers(self) -> list[IpNetwork]:
        """Return the prefixes that the kernel blocks and that no path of this process needs."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether this process owns the kill switch."""
        ...

    def unprotected(self) -> UnprotectedDestinations:
        """Return the destinations that could not be blocked, and the reason."""
        ...


class ShellHost(Protocol):
    """What a shell needs of the node that runs it."""

    @property
    def cores(self) -> NodeCores:
        """The cores."""
        ...

    def spawn(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task as long as the node runs. If the task fails, the node ends."""
        ...

    def now(self) -> float:
        """Return the time on the node's clock."""
        ...

    def settle(self, now: float) -> None:
        """Pass on the events that a change from outside of the cores has caused."""
        ...

    def take(self, arrived: Arrived) -> None:
        """Pass packets to the cores that did not come through the UDP port."""
        ...


# Large: one Protocol for the two shells, whose parts are used in different places.
class PacketShell(Protocol):
    """Owns the devices, sockets and filters of one backend; a context manager."""

    @property
    def choice(self) -> BackendChoice:
        """Which backend this is, and the reason of the choice."""
        ...

    @property
    def backend(self) -> NodeBackend:
        """The backend that installs IPsec configurations."""
        ...

    @property
    def path(self) -> PacketTransport:
        """The transport of the cores' packets."""
        ...

    @property
    def probed_packet_bytes(self) -> int | None:
        """Size of inner packets for which own circuits are probed; None if all carry them."""
        ...

    @property
    def unforgotten(self) -> int:
        """Number of inner addresses whose connections :meth:`forget` could not delete."""
        ...

    @property
    def enforced(self) -> tuple[Enforced, ...]:
        """The parts that keep their state in the kernel complete."""
        ...

    @property
    def kill_switch(self) -> SourceKillSwitch:
        """The kill switch, and the device that carries packets of its destinations."""
        ...

    @property
    def exit_role(self) -> ExitRole | None:
        """What this node can do as an exit now; None if it is not an exit."""
        ...

    def start(self, node: ShellHost) -> None:
        """Start the tasks."""
        ...

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses of this host, which no circuit may reach."""
        ...

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Block packets of an exit's circuits to these packed addresses.

        Raises:
            BackendError: the kernel refused.
        """
        ...

    def path_mtu(self, path: RequestedPath) -> int:
        """Return the size in bytes of the largest inner packet that a path takes now."""
        ...

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Delete every tracked connection of a closed circuit."""
        ...

    def close(self) -> None:
        """Remove everything; blocked destinations stay blocked."""
        ...
