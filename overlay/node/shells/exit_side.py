"""The exit in the operating system: a TUN device, forwarding and address translation.

It is set up when a node with the exit role starts, and removed when the node stops. State that a
killed node left behind is removed first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Self

from overlay.addresses import InnerAddress, IpNetwork
from overlay.exit_policy import ExitPolicy
from overlay.node.exit_role import ExitRole
from overlay.node.shells.operating_system import OperatingSystem, Tun
from overlay.system.exit_limits import ExitLimits
from overlay.system.host_events import AddressChanged, HostEvent, LinkChanged, Overrun
from overlay.system.tun import MIN_MTU

__all__ = ["ExitSide"]


class ExitSide:
    """Own the exit's TUN device and its packet filter; a context manager."""

    def __init__(
        self,
        host: OperatingSystem,
        inner_networks: Sequence[IpNetwork],
        path_mtu: int,
        segment_bytes: int,
        limits: ExitLimits,
        policy: ExitPolicy | None,
        opened_links: Sequence[IpNetwork] | None,
    ) -> None:
        """Open the device and install the filter. If one fails, neither remains.

        Args:
            host: the operating system.
            inner_networks: the pools of inner addresses.
            path_mtu: largest packet in bytes that outside hosts may send to a circuit. It is the
                same for all circuits, because the exit does not know their lengths. The device has
                at least 1280 bytes, the minimum of IPv6 (RFC 8200, section 5).
            segment_bytes: size in bytes of a TCP segment in a circuit, IP header included.
            limits: limits on connections of one circuit and of all.
            policy: the exit policy, or None.
            opened_links: networks on this host's links that circuits may reach; None for all.

        Raises:
            BackendError: there is no permission, TUN device or packet filter.
        """
        self._host = host
        self._own_addresses = host.own_addresses()
        self._device_mtu = max(path_mtu, MIN_MTU)
        self._segment_bytes = segment_bytes
        self._closed = False
        self.device = host.open_tun("exit%d", self._device_mtu, segment_bytes)
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
            write=self._write,
            examine=host.exit_problems,
        )
        self._refused: frozenset[bytes] = frozenset()
        self._stale = False
        self.unforgotten = 0

    def replace_device(self) -> Tun | None:
        """Replace a device that another program took away by a new one with the same name.

        Packet filter and routes name the device. The next review restores what left with it.

        Returns:
            The new device, or None if this exit was closed.

        Raises:
            BackendError: the name is taken, or a permission is missing.
        """
        self.device.close()
        if self._closed:
            return None
        self.device = self._host.open_tun(self.device.name, self._device_mtu, self._segment_bytes)
        return self.device

    def _write(self, packets: Sequence[bytes]) -> None:
        self.device.write_batch(packets)

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses that no circuit may reach, as of the last :meth:`refresh`."""
        return self._own_addresses | self._refused

    def refresh(self, now: float) -> None:  # noqa: ARG002 - a periodic task gets the time
        """Read the addresses of this host."""
        self._own_addresses = self._host.own_addresses()

    # -- part of the enforcement (:mod:`.enforcement`), so that this sees changes of addresses

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether the addresses of this host may have changed."""
        relevant = (AddressChanged, LinkChanged, Overrun)
        self._stale = self._stale or any(isinstance(event, relevant) for event in events)

    def disturbed(self) -> bool:
        """Return False, because the kernel notifies every change of addresses."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return nothing, because reviews (:mod:`.exit_watch`) report what is missing."""
        return ()

    def repair(self) -> tuple[str, ...]:
        """Read the addresses of this host, and look after the device, if they may have changed.

        A device that another program renamed or moved is closed, so that its reader replaces it.
        Reviews count the repairs of an exit, so this returns no names.

        Raises:
            BackendError: the kernel could not be read, or the device could not be set up.
        """
        if self._stale:
            self._own_addresses = self._host.own_addresses()
            if self.device.in_place:
                self._host.bring_up(self.device.name)
            else:
                self.device.close()
            self._stale = False
        return ()

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Block packets of circuits to these packed addresses; they replace the last ones.

        Raises:
            BackendError: the kernel refused.
        """
        self._refused = addresses
        self.role.refuse_destinations(addresses)

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Remove the tracked connections of a circuit that ended (paper, section 2.5)."""
        for address in inner_addresses:
            if not self._host.forget_connections(address):
                self.unforgotten += 1

    def close(self) -> None:
        """Remove the filter, then the device that it names."""
        self._closed = True
        try:
            self._wall.remove()
        finally:
            self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
