"""The services that requested paths use: circuits, and the kill switch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from overlay.addresses import InnerAddress, IpNetwork
from overlay.selection.selector import MixPath

__all__ = ["CircuitService", "KillSwitchService", "StandbyService"]


class CircuitService(Protocol):
    """The part of Anonymous Paths Management that paths use."""

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Begin a circuit and return its process-local number."""
        ...

    def close(self, circuit: int, now: float) -> None:
        """Close a circuit."""
        ...


class StandbyService(Protocol):
    """The part of Anonymous Paths Management that the keeper of standby circuits uses."""

    def stand_by(self, circuit: int, path: MixPath, now: float) -> int:
        """Begin a circuit that takes over from an open one; return its number."""
        ...


class KillSwitchService(Protocol):
    """Keeps packets to a destination from leaving outside its circuit.

    Every call may raise ``BackendError``. The destination then stays blocked.
    """

    def protect(self, *destinations: IpNetwork) -> None:
        """Block ``destinations``: packets to them leave through a circuit or not at all."""
        ...

    def carry(self, *carried: tuple[IpNetwork, InnerAddress]) -> None:
        """Send packets to destinations into the source TUN, each with its source address.

        All or none: if this fails, none of them is carried.
        """
        ...

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop sending them there; the destination remains blocked."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Combine all :meth:`uncarry` and :meth:`release` inside into one change of the filters."""
        ...

    def release(self, *destinations: IpNetwork) -> None:
        """Release destinations, in this order."""
        ...
