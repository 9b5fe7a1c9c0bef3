"""Check whether this host uses an inner address for something else.

Exits lend inner addresses from private networks, and the source's host may use the same networks.
It may also begin to use one later, for example as its own address in a VPN. The circuit would then
cut off that use, so the path gets another circuit. Source: docs/decisions/0043.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from overlay.addresses import Endpoint, InnerAddress
from overlay.errors import BackendError
from overlay.node.shells.exit_watch import OWN_DEVICES, concerns_exit
from overlay.system.host_events import FilterChanged, HostEvent
from overlay.system.host_networks import NEIGHBOUR, ROUTER, UsedNetwork, uses
from overlay.system.name_servers import name_servers

__all__ = ["InnerUse", "LentAddresses"]

_IPV4_BYTES: Final = 4


class _Host(Protocol):
    def used_networks(self) -> list[UsedNetwork]: ...


class InnerUse:
    """Compare inner addresses with the networks of the host and the endpoints of nodes."""

    def __init__(self, host: _Host, nodes: Callable[[], Iterable[Endpoint]]) -> None:
        """Store the arguments; ``nodes`` returns the endpoints of all known nodes."""
        self._host = host
        self._nodes = nodes

    def is_used(self, packed: bytes) -> bool:
        """Tell whether the host already uses a packed address that an exit has lent.

        The result is True also if the host cannot be asked, because an address that cannot be
        checked is not used.
        """
        address = ipaddress.ip_address(packed)
        if address in name_servers() or any(each.packed == packed for each in self._nodes()):
            return True
        try:
            return uses(address, self._host.used_networks()) is not None
        except BackendError:
            return True

    def used_beside_paths(self, held: Collection[InnerAddress]) -> frozenset[InnerAddress]:
        """Return the inner addresses in use that something else on this host uses as well.

        Only addresses of this host and routes to single addresses count. A larger network loses
        only one host to the path, but the path might find no exit with another address.
        Devices of this program do not count, because they hold these addresses.

        Entries that another host on the link can cause do not count either. Such a host could
        watch the path change, and with an exit find out which host has the lent address. These
        entries are neighbours (one ARP packet) and, over IPv6, prefixes (one router
        advertisement). So only IPv4 addresses are compared.

        Raises:
            BackendError: the host's networks could not be read.
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
    """Check the inner addresses of all paths whenever the host's networks have changed.

    It implements ``overlay.node.shells.enforcement.Enforced`` to get the notifications; it installs
    nothing.
    """

    def __init__(
        self,
        use: InnerUse,
        held: Callable[[], Collection[InnerAddress]],
        give_up: Callable[[frozenset[InnerAddress]], None],
    ) -> None:
        """Store the arguments.

        Args:
            use: checks addresses.
            held: returns the inner addresses of all paths.
            give_up: is called with the addresses that something else uses now.
        """
        self._use = use
        self._held = held
        self._give_up = give_up
        self._stale = False

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether an address, route or device changed that does not belong to a circuit."""
        networks = [each for each in events if not isinstance(each, FilterChanged)]
        self._stale = self._stale or concerns_exit(networks)

    def disturbed(self) -> bool:
        """Return False, because the kernel notifies every change."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return nothing, because this part installs nothing."""
        return ()

    def repair(self) -> tuple[str, ...]:
        """Give up addresses that something else uses now; this is never a repair.

        Raises:
            BackendError: the host's networks could not be read.
        """
        held = self._held() if self._stale else ()
        if held:
            taken = self._use.used_beside_paths(held)
            if taken:
                self._give_up(taken)
        self._stale = False
        return ()
