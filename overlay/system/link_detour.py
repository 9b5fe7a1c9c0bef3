"""The way of packets that fit no link in one piece: the outermost packet is cut, not refused.

An IPv6 packet of up to 1,280 bytes must be carried uncut (RFC 8200, section 5). With the layers
of three or four hops around it, it exceeds what a link carries, and Linux, which as a relay only
forwards, would drop it for the next link's sake. A tunnel's entry may cut the tunnel's packets
(RFC 2473, section 7.1), and here that is us, so Linux is told of a larger link::

    onion packet of more than 1,280 bytes ──> filter: mark ──> policy, SAs: mark of link and node
      ──> rule for both: route to this device, with a large MTU ──> the route's program: node's mark
      ──> the true route ──> cut

No other packet comes here. Nothing reaches the device, a TUN device that nobody reads; it
vanishes with the process and takes its routes along; the rules are found by the next start. What
another program removes of them is made anew.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Final, Self

from overlay.system.host_events import HostEvent, RouteChanged, RuleChanged
from overlay.system.kept_device import KeptDevice
from overlay.system.kill_switch import NODE_MARK
from overlay.system.packet_filter import LARGE_MARK
from overlay.system.reroute_program import load_reroute_program
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink

__all__ = ["LinkDetour", "clear_link_detour_leftovers"]

_MARK: Final = LARGE_MARK | NODE_MARK
_TABLE: Final = 0x6D6C
_RULES: Final = tuple(MarkRule(v, preference=107, mark=_MARK, table=_TABLE) for v in (4, 6))
_EVERYWHERE: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

_NAME: Final = "anonlink%d"
_DEVICE_MTU: Final = 65_535
_METRIC: Final = 1
_LINK_MTU: Final = 2000
"""Bytes; 1,280 in five onion layers and a link are some 1,750 with the largest suite."""


class LinkDetour:
    """The device and the routes to it; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    """

    def __init__(self) -> None:
        """Make it, all or nothing.

        Raises:
            BackendError: no permission, or the kernel cannot do it.
        """
        self._gone = False
        with ExitStack() as opened:
            opened.callback(clear_link_detour_leftovers)
            program = load_reroute_program(NODE_MARK)
            opened.callback(os.close, program)
            self._device = KeptDevice(_NAME, _DEVICE_MTU, partial(_prepare, program=program))
            opened.callback(self._device.close)
            self._opened = opened.pop_all()

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of lost rules and routes."""
        self._gone |= any(
            isinstance(event, RuleChanged | RouteChanged) and event.gone and event.table == _TABLE
            for event in events
        )

    def lost(self) -> bool:
        """Tell whether the device, a route to it or a rule is lost."""
        return self._gone or self._device.lost()

    def restore(self) -> None:
        """Make anew what is lost.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        self._device.restore()
        self._gone = False

    def close(self) -> None:
        """Remove the device with its routes, and the rules; harmless if repeated."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clear_link_detour_leftovers() -> None:
    """Remove what a killed node left of it; harmless if there is nothing.

    Raises:
        BackendError: the kernel refused.
    """
    with Rtnetlink() as netlink:
        for rule in _RULES:
            netlink.delete_rule(rule)


def _prepare(device: str, *, program: int) -> None:
    with Rtnetlink() as netlink:
        for everywhere, rule in zip(_EVERYWHERE, _RULES, strict=True):
            route = Route(
                everywhere,
                RouteKind.UNICAST,
                _TABLE,
                _METRIC,
                device,
                mtu=_LINK_MTU,
                rerouted=True,
            )
            netlink.put_route(route, program)
            netlink.add_rule(rule)
