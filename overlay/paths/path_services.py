"""What paths need of the world: circuits, and a guard for their destinations."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from overlay.addresses import InnerAddress, IpNetwork
from overlay.selection.selector import MixPath

__all__ = ["CircuitService", "KillSwitchService", "StandbyService"]


class CircuitService(Protocol):
    """What paths need of Anonymous Paths Management."""

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Begin a circuit and return its process-local number."""
        ...

    def close(self, circuit: int, now: float) -> None:
        """Tear a circuit down."""
        ...


class StandbyService(Protocol):
    """What the keeper of standby circuits needs of Anonymous Paths Management."""

    def stand_by(self, circuit: int, path: MixPath, now: float) -> int:
        """Begin a circuit that takes over from an open one; return its number."""
        ...


class KillSwitchService(Protocol):
    """What keeps packets to a destination from leaving outside its circuit.

    Every call may raise ``BackendError``; the destination then stays guarded.
    """

    def protect(self, *destinations: IpNetwork) -> None:
        """From now on packets to ``destinations`` leave through a circuit or not at all."""
        ...

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Send packets to ``destination`` into the source TUN, with this source address."""
        ...

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop sending them there; they remain protected."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Change the host's filters once for all that is uncarried or released inside."""
        ...

    def release(self, *destinations: IpNetwork) -> None:
        """End the protection, in this order."""
        ...
