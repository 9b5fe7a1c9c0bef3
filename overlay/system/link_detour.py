"""Fragment the outermost packet if an onion packet is too large for a link.

An IPv6 packet of up to 1,280 bytes must be carried without fragmentation (RFC 8200, section 5).
With the layers of three or four hops, it exceeds the MTU of a link. A relay only forwards it, so
Linux would drop it. The entry of a tunnel may fragment the tunnel's packets (RFC 2473, section
7.1), and this node is the entry. A source needs the same for packets with more than 1,038 bytes,
which programs may forbid to fragment. So these packets take a route with a larger MTU::

    onion packet of more than 1,280 bytes ──> filter: mark ──> policy, SAs: mark of link and node
    program's packet of more than 1,038 ──> ``fragmenting_device``: mark ──> the same
      ──> rule for both: route to this device, with a large MTU ──> the route's program: node's mark
      ──> the true route ──> fragments

Other packets do not take this route. No packet reaches the device, which is a TUN device without a
reader. If the process ends, it disappears with its routes, and the next start removes the rules.
Parts that another program removes are created again.
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
"""In bytes; 1,300 bytes in five onion layers and a link SA take about 1,770 (largest suite)."""


class LinkDetour:
    """The device and the routes to it; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    """

    def __init__(self) -> None:
        """Create all parts, or none.

        Raises:
            BackendError: a permission is missing, or the kernel does not support it.
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
        """Process events about lost rules and routes."""
        self._gone |= any(
            isinstance(event, RuleChanged | RouteChanged) and event.gone and event.table == _TABLE
            for event in events
        )

    def lost(self) -> bool:
        """Tell whether the device, a route to it or a rule is lost."""
        return self._gone or self._device.lost()

    def restore(self) -> None:
        """Create lost parts again.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        self._device.restore()
        self._gone = False

    def close(self) -> None:
        """Remove the device with its routes, and the rules; may be called repeatedly."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clear_link_detour_leftovers() -> None:
    """Remove the rules that a killed node left; they need not exist.

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
