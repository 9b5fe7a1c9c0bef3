"""Kernel settings of an exit, and the devices that must not forward for other hosts.

IPv4 has a forwarding setting for each input device; IPv6 has one setting for all devices. Replies
to circuits come in over the uplink, so it must forward. But then hosts on that network could send
packets through this host to its other networks. So devices that did not forward before, the
*closed* devices, forward only packets of circuits.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from overlay.system.exit_networks import ExitNetworks
from overlay.system.kernel_settings import KernelSetting, parse_note, read_setting
from overlay.system.ownership import LOCK_PREFIX
from overlay.system.router_advertisements import accept_advertisements

__all__ = ["closed_devices", "exit_settings", "was_closed"]

_FORWARDING: Final = {4: "net/ipv4/conf/all/forwarding", 6: "net/ipv6/conf/all/forwarding"}


def exit_settings(
    plan: ExitNetworks, before: Iterable[KernelSetting] = ()
) -> tuple[KernelSetting, ...]:
    """Return the settings of an exit, in the order in which they must be changed.

    ``before`` are the settings of the previous configuration. Those for router advertisements are
    kept, because forwarding stays on.
    """
    settings: dict[str, str] = {}
    if 4 in plan.versions:
        for device in plan.devices(4):
            # The reverse-path check must look up a reply with the mark that the filter restores.
            settings[f"net/ipv4/conf/{device}/src_valid_mark"] = "1"
            settings[f"net/ipv4/conf/{device}/forwarding"] = "1"
        if plan.policy is not None:  # packets of links may come in over any device
            settings |= {f"net/ipv4/conf/{each}/forwarding": "1" for each in plan.closed}
    if 6 in plan.versions:
        kept = [each for each in before if each[0].endswith("/accept_ra")]
        settings |= dict([*kept, *accept_advertisements()])
        settings[_FORWARDING[6]] = "1"
    return tuple(settings.items())


def was_closed(version: int, notes: Iterable[str]) -> bool:
    """Tell whether this host did not forward an IP version before the exit changed settings."""
    return (_FORWARDING[version], "0") in map(parse_note, notes)


def closed_devices(plan: ExitNetworks, notes: Iterable[str]) -> tuple[str, ...]:
    """Return the devices that did not forward IPv4 before and over which links or replies may come.

    There are none while the host forwards IPv4 on all devices, for example after a container engine
    has started.
    """
    if read_setting(_FORWARDING[4]) == "1":
        return ()
    noted = dict(filter(None, map(parse_note, notes)))
    return tuple(
        name
        for _, name in socket.if_nameindex()
        if name not in ("lo", *plan.inside)
        and not name.startswith(LOCK_PREFIX)
        and _is_closed(name, noted, by_setting=plan.policy is not None)
    )


def _is_closed(device: str, noted: dict[str, str], *, by_setting: bool) -> bool:
    name = f"net/ipv4/conf/{device}/forwarding"
    if name in noted:
        return noted[name] == "0"
    return by_setting and read_setting(name) == "0"
