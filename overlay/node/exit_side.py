"""The exit's end in the operating system: a TUN device, forwarding and address translation.

All of it appears when the node starts with the exit role and is gone when it stops; what a
killed node left behind is removed first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Self

from overlay.addresses import InnerAddress, IpNetwork
from overlay.exit_policy import ExitPolicy
from overlay.node.exit_role import ExitRole
from overlay.node.operating_system import OperatingSystem
from overlay.system.exit_limits import ExitLimits
from overlay.system.host_events import AddressChanged, HostEvent, LinkChanged, Overrun
from overlay.system.tun import MIN_MTU

__all__ = ["ExitSide"]


class ExitSide:
    """Owner of the exit TUN and of the packet filter around it; a context manager."""

    def __init__(
        self,
        host: OperatingSystem,
        inner_networks: Sequence[IpNetwork],
        path_mtu: int,
        limits: ExitLimits,
        policy: ExitPolicy | None,
        opened_links: Sequence[IpNetwork] | None,
    ) -> None:
        """Take device and filter, all or nothing.

        Args:
            host: where they are taken.
            inner_networks: the pools of inner addresses.
            limits: connections of one circuit and of all.
            policy: what circuits may reach.
            opened_links: networks on this host's links that circuits may reach; None for all.
            path_mtu: bytes of the largest packet that outside hosts may send towards a circuit,
                the same for every circuit, since the exit does not know their lengths. Over
                IPv6 it is the protocol's least, 1280, if that is more.

        Raises:
            BackendError: no permission, no TUN device or no packet filter.
        """
        self._host = host
        self._own_addresses = host.own_addresses()
        self.device = host.open_tun("exit%d", max(path_mtu, MIN_MTU))
        try:
            self._wall = host.open_exit(
                self.device.name, inner_networks, path_mtu, limits, opened_links
            )
        except BaseException:
            self.device.close()
            raise
        self.role = ExitRole(
            self._wall,
            inner_networks,
            policy,
            write=self.device.write_batch,
            examine=host.exit_problems,
        )
        self._refused: frozenset[bytes] = frozenset()
        self._stale = False
        self.unforgotten = 0

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses that lead to this host, as of the last :meth:`refresh`."""
        return self._own_addresses | self._refused

    def refresh(self, now: float) -> None:  # noqa: ARG002 - one of the node's chores
        """Learn which addresses this host holds now."""
        self._own_addresses = self._host.own_addresses()

    # -- a part of the enforcement, because another program may flush the packet filter

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether this host's addresses have changed."""
        relevant = (AddressChanged, LinkChanged, Overrun)
        self._stale = self._stale or any(isinstance(event, relevant) for event in events)

    def disturbed(self) -> bool:
        """Return False, because the kernel tells of every change."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return nothing, because the exit's own reviews tell that."""
        return ()

    def repair(self) -> tuple[str, ...]:
        """Follow the host's addresses; nothing of it counts as a repair.

        Raises:
            BackendError: the kernel did not tell.
        """
        if self._stale:
            self._own_addresses = self._host.own_addresses()
            self._stale = False
        return ()

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Let no circuit reach these packed addresses, instead of the ones before.

        Raises:
            BackendError: the kernel refused.
        """
        self._refused = addresses
        self.role.refuse_destinations(addresses)

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Forget every tracked connection of a circuit that ended (paper, section 2.5)."""
        for address in inner_addresses:
            if not self._host.forget_connections(address):
                self.unforgotten += 1

    def close(self) -> None:
        """Remove the filter, then the device."""
        try:
            self._wall.remove()
        finally:
            self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
