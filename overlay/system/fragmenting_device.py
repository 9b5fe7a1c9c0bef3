"""Fragment packets to the inner MTU before IPsec, so that each fragment fits into the circuit.

Linux looks up IPsec policies before it fragments a packet. An IPv4 packet without "don't fragment"
is encrypted as a whole, and then the outermost packet is fragmented. The next relay reassembles it
and cannot forward the inner packet in one piece. A program that forbids fragmentation is told the
size that IPsec leaves on the underlay, which is less than the inner MTU. So packets for a circuit
first take a route without IPsec::

    program, or answer at an exit
      ──> route to this device, with the inner MTU ──> fragments ──> the route's program: new mark
      ──> rule for the mark: route to a second device ──> policy ──> SAs

IPsec can be disabled on a device for IPv4. For IPv6 the policies of programs' packets have the mark
as a condition, so packets without it have no policy (``overlay.ipsec.xfrm.entries``). The mark of
packets with more than ``SEGMENT_MTU`` bytes has the bit ``LARGE_MARK``, so that they take the
route of ``overlay.system.link_detour``.

The program also clears the identification of packets that are not fragments, because iptables
cannot do it. The packets remain on the output path and no device receives them again. So they are
not forwarded, filtered as input, or reassembled by connection tracking.

No packet reaches the first device. Packets without a policy end in the second device. It has no
address, so that the kernel never flushes its route. Both are TUN devices without a reader. If the
process ends, they disappear with their routes, and the next start removes the rules. Parts that
another program removes are created again. Alternatives: docs/decisions/0014.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Final, Self

from overlay.packet_sizes import SEGMENT_MTU
from overlay.system.host_events import HostEvent, RouteChanged, RuleChanged
from overlay.system.kept_device import KeptDevice
from overlay.system.kernel_settings import change_setting
from overlay.system.marks import LARGE_MARK
from overlay.system.reroute_program import load_reroute_program
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink, insist_on_ipv6
from overlay.system.tun import TunDevice

__all__ = ["REROUTE_MARK", "FragmentingDevice", "clear_fragmenting_leftovers", "try_fragmenting"]

REROUTE_MARK: Final = 0x6D66
"""Firewall mark of packets after fragmentation, until a link SA encrypts them."""

_TABLE: Final = 0x6D66
_TRIAL_TABLE: Final = 0x6D67
"""A table without a rule. It is not ``_TABLE``, because the loss of a route there is repaired."""

_RULES: Final = tuple(
    MarkRule(
        version,
        preference=108,
        mark=REROUTE_MARK,
        table=_TABLE,
        mask=0xFFFFFFFF & ~LARGE_MARK,
    )
    for version in (4, 6)
)
"""Before the rule of the kill switch, which would send the packets here again."""

_NAME: Final = "anonfrag%d"
_TRIAL_NAME: Final = "anontry%d"
_MTU: Final = 65_535
_METRIC: Final = 1
_EVERYWHERE: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_NOWHERE: Final = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
"""Prefixes for documentation (RFC 5737, RFC 3849)."""


class FragmentingDevice:
    """Both devices, the program and the rule; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    ``name`` and ``program`` are for routes with ``rerouted``.
    """

    def __init__(self, mtu: int = _MTU) -> None:
        """Create all parts, or none.

        Args:
            mtu: of the device, in bytes. A program that ignores the MTU of routes
                (``IP_PMTUDISC_PROBE``) learns this one.

        Raises:
            BackendError: a permission is missing, or the kernel does not support it.
        """
        self._rule_gone = False
        with ExitStack() as opened:
            opened.callback(clear_fragmenting_leftovers)
            self.program = _loaded(opened)
            first = KeptDevice(_NAME, mtu, partial(_prepare_cutting, program=self.program))
            opened.callback(first.close)
            second = KeptDevice(_NAME, _MTU, _prepare_second)
            opened.callback(second.close)
            self._devices = (first, second)
            self.name = first.name
            self._add_rules()
            self._opened = opened.pop_all()

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process events about the loss of the rule or of the second device's route."""
        self._rule_gone |= any(
            isinstance(event, RuleChanged | RouteChanged) and event.gone and event.table == _TABLE
            for event in events
        )

    def lost(self) -> bool:
        """Tell whether a device, its route or the rule is lost."""
        return self._rule_gone or any(each.lost() for each in self._devices)

    def restore(self) -> None:
        """Create lost parts again. The kill switch restores the routes to the first device.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        for each in self._devices:
            each.restore()
        self._add_rules()
        self._rule_gone = False

    def close(self) -> None:
        """Remove the devices with their routes, and the rule; may be called repeatedly."""
        self._opened.close()

    def _add_rules(self) -> None:
        with Rtnetlink() as netlink:
            for rule in _RULES:
                netlink.add_rule(rule)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_fragmenting() -> None:
    """Create the parts that affect no packet, and remove them; a node may run meanwhile.

    Raises:
        BackendError: a permission is missing, or the kernel does not support it.
    """
    with ExitStack() as opened:
        program = _loaded(opened)
        device = opened.enter_context(TunDevice.open(_TRIAL_NAME, _MTU))
        _prepare_cutting(device.name, program=program)


def clear_fragmenting_leftovers() -> None:
    """Remove the rule that a killed node left; it need not exist.

    Raises:
        BackendError: the kernel refused.
    """
    with Rtnetlink() as netlink:
        for rule in _RULES:
            netlink.delete_rule(rule)


def _loaded(opened: ExitStack) -> int:
    """Return the descriptor of the program for routes to the device; ``opened`` closes it."""
    program = load_reroute_program(REROUTE_MARK, atomic=True, large_above=SEGMENT_MTU)
    opened.callback(os.close, program)
    return program


def _prepare_cutting(device: str, *, program: int) -> None:
    """Disable IPsec on a device.

    For IPv6 there is no such setting. A trial route shows now whether the kernel supports the
    program, and not when a path opens.
    """
    insist_on_ipv6(device)
    change_setting(f"net/ipv4/conf/{device}/disable_xfrm", "1")
    with Rtnetlink() as netlink:
        for nowhere in _NOWHERE:
            trial = Route(nowhere, RouteKind.UNICAST, _TRIAL_TABLE, _METRIC, device, rerouted=True)
            netlink.put_route(trial, program)
            netlink.delete_route(trial)


def _prepare_second(device: str) -> None:
    with Rtnetlink() as netlink:
        for everywhere in _EVERYWHERE:
            netlink.put_route(Route(everywhere, RouteKind.UNICAST, _TABLE, _METRIC, device))
