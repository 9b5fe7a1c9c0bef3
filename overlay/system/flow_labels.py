"""Clear IPv6 flow labels with traffic control if the packet filter is iptables, which cannot.

Linux copies the flow label of a packet that IPsec encapsulates into each outer IPv6 header.
nftables clears it on output. With iptables, traffic control clears it on input. The kernel passes a
decrypted packet through the input of its device a second time. So packets from the network and
packets out of IPsec are covered, at relays and at exits.

Two cases are not covered: packets of local programs pass no device before IPsec, and a new device
has no rule yet. In these cases the packet filter drops packets with a label
(``overlay.system.normalisation``).

Formats: Linux uapi ``linux/pkt_cls.h`` (tc_u32_sel) and ``linux/tc_act/tc_pedit.h``.
"""

from __future__ import annotations

import struct
from typing import Final, Self

from overlay.system.netlink_messages import attribute, nested
from overlay.system.packet_filter import PacketFilter
from overlay.system.traffic_control import (
    GO_ON,
    TrafficControl,
    TrafficDirection,
    TrafficRule,
    indexes,
)
from overlay.system.tun import MIN_MTU, TunDevice

__all__ = ["FlowLabels", "clear_flow_label_leftovers", "try_clearing_flow_labels"]

_PREFERENCE: Final = 0x6D66
_TRIAL_NAME: Final = "anontry%d"
_IPV6: Final = 0x86DD

_U32_SELECTOR: Final = 5
_U32_ACTIONS: Final = 7
_U32_TERMINAL: Final = 1
_FIRST_ACTION: Final = 1
_ACTION_KIND: Final = 1
_ACTION_OPTIONS: Final = 2
_PEDIT_PARAMETERS: Final = 2
_KEPT: Final = 0xFFF00000
"""Version and traffic class; the flow label is the rest of an IPv6 header's first word."""


def _rule() -> TrafficRule:
    """Return the rule: for every IPv6 packet, clear 20 bits, then ask the next filter."""
    every_packet = struct.pack(">II", 0, 0) + struct.pack("=ii", 0, 0)
    selector = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + every_packet
    change = struct.pack(">II", _KEPT, 0) + struct.pack("=IIII", 0, 0, 0, 0)
    parameters = struct.pack("=IIiiiBBxx", 0, 0, GO_ON, 0, 0, 1, 0) + change
    action = attribute(_ACTION_KIND, b"pedit\0") + nested(
        _ACTION_OPTIONS, attribute(_PEDIT_PARAMETERS, parameters)
    )
    options = attribute(_U32_SELECTOR, selector) + nested(
        _U32_ACTIONS, nested(_FIRST_ACTION, action)
    )
    return TrafficRule(
        _PREFERENCE,
        TrafficDirection.INGRESS,
        _IPV6,
        "u32",
        options,
        "sch_ingress, cls_u32 and act_pedit, or with nftables",
    )


class FlowLabels:
    """The rule on every device, if the packet filter needs it; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    """

    def __init__(self, packet_filter: PacketFilter) -> None:
        """Install the rule on all devices, or on none if the packet filter clears labels.

        Raises:
            BackendError: a permission is missing, or the kernel lacks a module.
        """
        clear_flow_label_leftovers()
        self._control: TrafficControl | None = None
        self._covered: dict[str, int] = {}
        if packet_filter.clears_flow_labels:
            return
        self._control = TrafficControl()
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @property
    def needed(self) -> bool:
        """Whether :meth:`refresh` must be called when devices appear."""
        return self._control is not None

    def refresh(self) -> None:
        """Install the rule on new devices; no effect if there are none.

        Raises:
            BackendError: the kernel refused.
        """
        if self._control is None:
            return
        present = indexes(())
        for name, index in present.items():
            if self._covered.get(name) != index:
                self._control.put(index, _rule())
        self._covered = present

    def close(self) -> None:
        """Remove the rule from all devices; may be called repeatedly."""
        control, self._control = self._control, None
        if control is not None:
            control.remove_everywhere(_rule())
            control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_clearing_flow_labels() -> None:
    """Install the rule on a temporary device, and remove both; a node may run meanwhile.

    Raises:
        BackendError: a permission is missing, or the kernel lacks a module.
    """
    with TunDevice.open(_TRIAL_NAME, MIN_MTU) as device, TrafficControl() as control:
        control.put(device.index, _rule())


def clear_flow_label_leftovers() -> None:
    """Remove the rules that a killed node left; there need be none.

    Raises:
        BackendError: a permission is missing.
    """
    with TrafficControl() as control:
        control.remove_everywhere(_rule())
