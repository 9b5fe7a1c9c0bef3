"""The device before which IPv4 packets are cut to the inner MTU, so that IPsec takes fragments.

Linux looks for a policy before it cuts a packet. What may be fragmented it then encrypts as a
whole, however large, and cuts the outermost packet; the next relay cannot pass on in one piece
what it finds inside. (IPv6 packets of programs it cuts first, and those of others it may not
cut.) So IPv4 packets that are meant for a circuit take a route without IPsec first::

    program, or answer at an exit
      ──> route to this device, with the inner MTU ──> cut ──> the route's program: new mark
      ──> rule for the mark: route to a second device ──> policy ──> SAs

The program also clears the identification of what is no fragment, which a filter of iptables
could not. They stay output all the way: no interface receives them again, so nothing is forwarded,
filtered as incoming, or put together by connection tracking. Nothing reaches the first device.
What no policy takes ends in the second one, which has no address, so that the kernel never
flushes its route. Both are TUN devices that nobody reads: they vanish with the process and take
their routes along; the rule is found by the next start. What another program removes of them is
made anew. Why not otherwise: docs/decisions/0014.
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
from overlay.system.kernel_settings import change_setting
from overlay.system.reroute_program import load_reroute_program
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink
from overlay.system.tun import TunDevice

__all__ = ["REROUTE_MARK", "FragmentingDevice", "clear_fragmenting_leftovers", "try_fragmenting"]

REROUTE_MARK: Final = 0x6D66
"""Firewall mark of packets that were cut, until a link SA seals them."""

_TABLE: Final = 0x6D66
_TRIAL_TABLE: Final = 0x6D67
"""A table to which no rule leads. Its own, because the loss of a route of ``_TABLE`` is mended."""

_RULE: Final = MarkRule(4, preference=108, mark=REROUTE_MARK, table=_TABLE)
"""Before the guard's rule, which would send them here again."""

_NAME: Final = "anonfrag%d"
_TRIAL_NAME: Final = "anontry%d"
_MTU: Final = 65_535
_METRIC: Final = 1
_EVERYWHERE: Final = ipaddress.ip_network("0.0.0.0/0")
_NOWHERE: Final = ipaddress.ip_network("192.0.2.0/24")
"""For documentation (RFC 5737)."""


class FragmentingDevice:
    """The device and what leads from it to the circuits; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    ``name`` and ``program`` are for routes of which ``rerouted`` is true.
    """

    def __init__(self) -> None:
        """Make it, all or nothing.

        Raises:
            BackendError: no permission, or the kernel cannot do it.
        """
        self._rule_gone = False
        with ExitStack() as opened:
            opened.callback(clear_fragmenting_leftovers)
            self.program = _loaded(opened)
            first = KeptDevice(_NAME, _MTU, partial(_prepare_cutting, program=self.program))
            opened.callback(first.close)
            second = KeptDevice(_NAME, _MTU, _prepare_second)
            opened.callback(second.close)
            self._devices = (first, second)
            self.name = first.name
            self._add_rule()
            self._opened = opened.pop_all()

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of the rule's loss, and of the loss of the second device's route."""
        self._rule_gone |= any(
            isinstance(event, RuleChanged | RouteChanged) and event.gone and event.table == _TABLE
            for event in events
        )

    def lost(self) -> bool:
        """Tell whether a device, its route or the rule is lost."""
        return self._rule_gone or any(each.lost() for each in self._devices)

    def restore(self) -> None:
        """Make anew what is lost. The guard puts the routes to the first device back.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        for each in self._devices:
            each.restore()
        self._add_rule()
        self._rule_gone = False

    def close(self) -> None:
        """Remove the device with all its routes, and the rule; harmless if repeated."""
        self._opened.close()

    def _add_rule(self) -> None:
        with Rtnetlink() as netlink:
            netlink.add_rule(_RULE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_fragmenting() -> None:
    """Make all of it that concerns no packet, and remove it; a node may run meanwhile.

    Raises:
        BackendError: no permission, or the kernel cannot do it.
    """
    with ExitStack() as opened:
        program = _loaded(opened)
        device = opened.enter_context(TunDevice.open(_TRIAL_NAME, _MTU))
        _prepare_cutting(device.name, program=program)


def clear_fragmenting_leftovers() -> None:
    """Remove what a killed node left of it; harmless if there is nothing.

    Raises:
        BackendError: the kernel refused.
    """
    with Rtnetlink() as netlink:
        netlink.delete_rule(_RULE)


def _loaded(opened: ExitStack) -> int:
    """Return the program for routes to the device; ``opened`` closes it."""
    program = load_reroute_program(REROUTE_MARK, atomic=True)
    opened.callback(os.close, program)
    return program


def _prepare_cutting(device: str, *, program: int) -> None:
    """Keep IPsec from a device.

    A route to nowhere has the kernel refuse now what it cannot do, not when there is a path.
    """
    change_setting(f"net/ipv4/conf/{device}/disable_xfrm", "1")
    trial = Route(_NOWHERE, RouteKind.UNICAST, _TRIAL_TABLE, _METRIC, device, rerouted=True)
    with Rtnetlink() as netlink:
        netlink.put_route(trial, program)
        netlink.delete_route(trial)


def _prepare_second(device: str) -> None:
    with Rtnetlink() as netlink:
        netlink.put_route(Route(_EVERYWHERE, RouteKind.UNICAST, _TABLE, _METRIC, device))
