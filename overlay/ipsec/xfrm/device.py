"""The device with this host's overlay, circuit and inner addresses, and their routes.

The kernel looks for a policy only after it has found a route. So the overlay's prefixes lead to a
device, in which packets without a policy are lost. It is a TUN device from which no process reads.
It vanishes with the process, also after ``kill -9``, together with its addresses and routes. If
another program deletes it, it is created again (``overlay.system.kept_device``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, IpNetwork
from overlay.errors import BackendError
from overlay.system.failures import refused
from overlay.system.host_events import HostEvent, RouteChanged
from overlay.system.kept_device import KeptDevice
from overlay.system.netlink_messages import attribute, exchange
from overlay.system.rtnetlink import MAIN_TABLE, Route, RouteKind, Rtnetlink, insist_on_ipv6

__all__ = ["CircuitDevice"]

_NAME: Final = "anonsec%d"
_MTU: Final = 65_535
"""The maximum, because the network below and the node's routes limit the size of packets."""

_METRIC: Final = 1024
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_CREATE_OR_REPLACE: Final = 0x500
_SCOPE_HOST: Final = 254
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_NODAD_NOPREFIXROUTE: Final = 0x202
_GONE: Final = frozenset((errno.EADDRNOTAVAIL, errno.ENODEV))


class CircuitDevice:
    """One device, owned by the backend; :meth:`close` removes it with its addresses and routes."""

    def __init__(self, routed: Iterable[IpNetwork]) -> None:
        """Create it, with routes for the overlay's prefixes and those of ``routed``.

        Raises:
            BackendError: the kernel has no TUN devices, or there is no permission.
        """
        self._routed = (*OVERLAY_NETWORKS, *routed)
        self._route_gone = False
        self._sequence = 1
        self._kept: dict[bytes, None] = {}
        with contextlib.ExitStack() as opened:
            self._netlink = opened.enter_context(_route_socket())
            self._device = KeptDevice(_NAME, _MTU, self._prepare)
            opened.callback(self._device.close)
            self._opened = opened.pop_all()
        self.name = self._device.name

    def _prepare(self, name: str) -> None:
        insist_on_ipv6(name)
        with Rtnetlink() as netlink:
            for prefix in self._routed:
                netlink.put_route(Route(prefix, RouteKind.UNICAST, MAIN_TABLE, _METRIC, name))

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note whether another program has removed routes.

        Routes of paths and addresses lead to the device as well, and are removed with them. So the
        routes are read after a notification.
        """
        index = self._device.index
        if any(
            isinstance(event, RouteChanged)
            and (event.gone, event.index, event.table) == (True, index, MAIN_TABLE)
            for event in events
        ):
            self._route_gone = self._route_gone or not self._has_routes()

    def _has_routes(self) -> bool:
        with Rtnetlink() as netlink:
            found = {
                each.destination
                for each in netlink.routes(MAIN_TABLE)
                if (each.device, each.metric) == (self.name, _METRIC)
            }
        return found.issuperset(self._routed)

    def lost(self) -> bool:
        """Tell whether the device or one of its routes is lost."""
        return self._route_gone or self._device.lost()

    def restore(self) -> None:
        """Create the device again with its routes; the backend adds the addresses.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        self._device.restore()
        self._route_gone = False

    def add(self, addresses: Sequence[bytes]) -> None:
        """Add (packed) addresses, which can be used at once.

        Raises:
            BackendError: the kernel refused one; then none of them is added.
        """
        for address in addresses:
            self._kept.pop(address, None)
        try:
            errors = self._change(_RTM_NEWADDR, _CREATE_OR_REPLACE, addresses)
        except BackendError:
            self.remove(addresses)
            raise
        if any(errors):
            self.remove([each for each, error in zip(addresses, errors, strict=True) if not error])
            number = next(error for error in errors if error)
            insist_on_ipv6(self.name)
            raise refused("adding an overlay address", OSError(number, os.strerror(number)))

    def remove(self, addresses: Sequence[bytes]) -> None:
        """Remove addresses; absent ones are no error.

        If the kernel does not remove an address, the next call tries it again.
        """
        self._kept.update(dict.fromkeys(addresses))
        wanted = list(self._kept)
        with contextlib.suppress(BackendError):
            errors = self._change(_RTM_DELADDR, 0, wanted)
            for address, number in zip(wanted, errors, strict=True):
                if not number or number in _GONE:
                    del self._kept[address]

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Hand packets to the kernel as if they came from outside over this device."""
        self._device.write_batch(packets)

    @property
    def kept(self) -> int:
        """How many addresses the kernel has not removed yet."""
        return len(self._kept)

    def close(self) -> None:
        """Remove the device."""
        self._opened.close()

    def _change(self, kind: int, flags: int, addresses: Sequence[bytes]) -> list[int]:
        """Send one message for each address; return the errno of each, 0 for done.

        Raises:
            BackendError: the socket failed, so the results are unknown.
        """
        if not addresses:
            return []
        bodies = [_address_body(self._device.index, address) for address in addresses]
        first, self._sequence = self._sequence, self._sequence + len(bodies)
        try:
            return exchange(self._netlink, kind, flags, bodies, first)
        except OSError as error:
            raise refused("changing the overlay's addresses", error) from error


def _route_socket() -> socket.socket:
    try:
        new = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(new.close)
            new.bind((0, 0))
            on_failure.pop_all()
    except OSError as error:
        raise refused("opening a netlink socket", error) from error
    return new


def _address_body(index: int, address: bytes) -> bytes:
    """Return an ifaddrmsg (family, prefix length, flags, scope, device) and its attributes.

    An IPv4 address is always an inner address of a circuit. ARP must not answer for it, so its
    scope is the host (``overlay.system.answer_settings``).
    """
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    scope = _SCOPE_HOST if len(address) == 4 else 0
    return (
        struct.pack("=BBBBI", family, len(address) * 8, 0, scope, index)
        + attribute(_IFA_LOCAL, address)
        + attribute(_IFA_ADDRESS, address)
        + attribute(_IFA_FLAGS, struct.pack("=I", _NODAD_NOPREFIXROUTE))
    )
