"""Whether something that this host talks to has an inner address, before and while it has it.

An exit lends inner addresses from private networks, which the host may use. It may also begin to
use one later, for example as its own address in a VPN, which the circuit would then cut off. So a
path whose address is in use from some moment on gets another circuit.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from overlay.addresses import Endpoint, InnerAddress
from overlay.errors import BackendError
from overlay.node.exit_watch import OWN_DEVICES, concerns_exit
from overlay.system.host_events import FilterChanged, HostEvent
from overlay.system.host_networks import NEIGHBOUR, ROUTER, UsedNetwork, uses
from overlay.system.name_servers import name_servers

__all__ = ["InnerUse", "LentAddresses"]

_IPV4_BYTES: Final = 4


class _Host(Protocol):
    def used_networks(self) -> list[UsedNetwork]: ...


class InnerUse:
    """Asks the host, and knows where other nodes are."""

    def __init__(self, host: _Host, nodes: Callable[[], Iterable[Endpoint]]) -> None:
        """Prepare; ``nodes`` gives the endpoints of all nodes that are known."""
        self._host = host
        self._nodes = nodes

    def is_used(self, packed: bytes) -> bool:
        """Tell whether an address that an exit lent may not be taken.

        Also if the host does not tell: an address that cannot be checked is not taken.
        """
        address = ipaddress.ip_address(packed)
        if address in name_servers() or any(each.packed == packed for each in self._nodes()):
            return True
        try:
            return uses(address, self._host.used_networks()) is not None
        except BackendError:
            return True

    def used_beside_paths(self, held: Collection[InnerAddress]) -> frozenset[InnerAddress]:
        """Return which inner addresses of this host something else has begun to use.

        Only an address of this host, or a route to a single one, counts: a whole network that has
        the address among others loses one host, while a path that no exit can serve beside that
        network would be lost. Devices of this program do not count, because they hold these
        addresses. What any host of
        a link can bring about does not count either: it would see the paths change, so with an
        exit it could find out which host has the address that this exit lent. That is a neighbour
        (one ARP packet), and over IPv6 a prefix (one router advertisement).

        Raises:
            BackendError: the host does not tell.
        """
        names = dict(socket.if_nameindex())
        used = [
            each
            for each in self._host.used_networks()
            if each.network.num_addresses == 1
            and each.what not in (NEIGHBOUR, ROUTER)
            and not names.get(each.device, "").startswith(OWN_DEVICES)
        ]
        return frozenset(
            each
            for each in held
            if len(each) == _IPV4_BYTES and uses(ipaddress.ip_address(each), used) is not None
        )


class LentAddresses:
    """Looks at the inner addresses of all paths whenever the host's networks have changed.

    Implements ``overlay.node.enforcement.Enforced``: it hears of changes, and installs nothing.
    """

    def __init__(
        self,
        use: InnerUse,
        held: Callable[[], Collection[InnerAddress]],
        give_up: Callable[[frozenset[InnerAddress]], None],
    ) -> None:
        """Prepare.

        Args:
            use: tells which addresses are in use.
            held: returns the inner addresses of all paths.
            give_up: is told of those that something else uses now.
        """
        self._use = use
        self._held = held
        self._give_up = give_up
        self._stale = False

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether an address, a route or a device changed that is not a circuit's."""
        networks = [each for each in events if not isinstance(each, FilterChanged)]
        self._stale = self._stale or concerns_exit(networks)

    def disturbed(self) -> bool:
        """Return False, because the kernel tells of every change."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return nothing, because this part installs nothing."""
        return ()

    def repair(self) -> tuple[str, ...]:
        """Give up addresses that are in use elsewhere; nothing of it counts as a repair.

        Raises:
            BackendError: the host does not tell.
        """
        held = self._held() if self._stale else ()
        if held:
            taken = self._use.used_beside_paths(held)
            if taken:
                self._give_up(taken)
        self._stale = False
        return ()
