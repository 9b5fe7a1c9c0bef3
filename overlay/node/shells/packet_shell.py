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
from overlay.paths.paths import KillSwitchService

__all__ = ["BackendChoice", "PacketShell", "ShellHost", "SourceKillSwitch"]


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backend runs, and why, as a clause for the node's owner."""

    name: str
    reason: str


class SourceKillSwitch(KillSwitchService, Protocol):
    """The guard of destinations as the node's start sees it."""

    def leftovers(self) -> list[IpNetwork]:
        """Return what the kernel still guards, though no path of this process asked for it."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether this process owns the guard."""
        ...

    def unguarded(self) -> UnprotectedDestinations:
        """Return which destinations are not blocked though they shall be, and why."""
        ...


class ShellHost(Protocol):
    """What a shell needs of the node that runs it."""

    @property
    def cores(self) -> NodeCores:
        """The cores."""
        ...

    def spawn(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task as long as the node runs; its failure ends the node."""
        ...

    def now(self) -> float:
        """Return the time on the node's clock."""
        ...

    def settle(self, now: float) -> None:
        """Pass on what a change from outside the cores has caused."""
        ...

    def take(self, arrived: Arrived) -> None:
        """Tell the cores of packets that came beside the UDP port."""
        ...


class PacketShell(Protocol):
    """Owner of what one backend holds of the operating system; a context manager."""

    @property
    def choice(self) -> BackendChoice:
        """Which backend this is, and why it was chosen."""
        ...

    @property
    def backend(self) -> NodeBackend:
        """Where IPsec configurations are enforced."""
        ...

    @property
    def path(self) -> PacketTransport:
        """How the cores' packets go."""
        ...

    @property
    def unforgotten(self) -> int:
        """How many inner addresses' connections could not be forgotten; see :meth:`forget`."""
        ...

    @property
    def enforced(self) -> tuple[Enforced, ...]:
        """What must stay in the kernel as it was put there."""
        ...

    @property
    def guard(self) -> SourceKillSwitch:
        """The source's end: destinations and what carries their packets."""
        ...

    @property
    def exit_role(self) -> ExitRole | None:
        """What this node can do as an exit now; None if it is none."""
        ...

    def start(self, node: ShellHost) -> None:
        """Start the tasks."""
        ...

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses that an exit lets no circuit reach."""
        ...

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Let an exit's circuits reach none of these packed addresses.

        Raises:
            BackendError: the kernel refused.
        """
        ...

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Forget every tracked connection of a circuit that ended."""
        ...

    def close(self) -> None:
        """Give everything back; what is guarded stays so."""
        ...
