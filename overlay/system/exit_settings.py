"""The kernel's settings that an exit needs, and what must not be forwarded because of them.

IPv4 forwards by the device that a packet comes in by, IPv6 by one switch for all devices. Answers
come in from the outside, so forwarding is on for the device towards it. Without more, hosts of that
network could send through this host to its other networks. What forwarded nothing before forwards
nothing but circuits' packets: these are the *closed* devices.
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
    """Return the settings an exit needs, in the order in which they must be made.

    ``before`` are those of an earlier plan. What was changed for router advertisements stays
    changed, because forwarding stays on.
    """
    settings: dict[str, str] = {}
    if 4 in plan.versions:
        for device in plan.devices(4):
            # A reply's source is looked up with the mark that it gets, not without.
            settings[f"net/ipv4/conf/{device}/src_valid_mark"] = "1"
            settings[f"net/ipv4/conf/{device}/forwarding"] = "1"
        if plan.policy is not None:  # links come in by any device
            settings |= {f"net/ipv4/conf/{each}/forwarding": "1" for each in plan.closed}
    if 6 in plan.versions:
        kept = [each for each in before if each[0].endswith("/accept_ra")]
        settings |= dict([*kept, *accept_advertisements()])
        settings[_FORWARDING[6]] = "1"
    return tuple(settings.items())


def was_closed(version: int, notes: Iterable[str]) -> bool:
    """Tell whether this host forwarded nothing over an IP version before the exit's settings."""
    return (_FORWARDING[version], "0") in map(parse_note, notes)


def closed_devices(plan: ExitNetworks, notes: Iterable[str]) -> tuple[str, ...]:
    """Return the devices that forwarded no IPv4 before, and by which links or answers may come.

    None is closed while the host forwards IPv4 on all devices, as it does when a container engine
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
