"""What this process may do: capabilities, TUN devices, packet filters, namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from overlay.doctor.findings import Finding, Outcome, Purpose, Setup, tried
from overlay.system.egress_filter import try_egress
from overlay.system.failures import privilege_remedy
from overlay.system.filter_choice import ChosenFilter, find_packet_filter
from overlay.system.privileges import CAP_NET_ADMIN, CAP_NET_RAW, effective_capabilities
from overlay.system.programs import find_program
from overlay.system.tun import MIN_MTU, TunDevice

__all__ = ["namespaces", "packet_filter", "privileges", "traffic_control", "tun_device"]

_TRIAL_DEVICE: Final = "anontry%d"

_NEW_NAMESPACES: Final = """
import ctypes, os, sys
flags = 0x40000000 | (0 if int(sys.argv[1]) else 0x10000000)
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(ctypes.get_errno() if libc.unshare(flags) else 0)
"""
"""CLONE_NEWNET, and CLONE_NEWUSER for whoever is not root (linux/sched.h)."""


def privileges(
    _setup: Setup, capabilities: Callable[[], frozenset[int]] = effective_capabilities
) -> list[Finding]:
    """The two capabilities by name; what they allow is tried by the other checks."""
    held = capabilities()
    unit = "or set AmbientCapabilities=CAP_NET_ADMIN in its systemd unit"
    return [
        _capability(
            "CAP_NET_ADMIN",
            CAP_NET_ADMIN in held,
            (Purpose.EXIT, Purpose.KERNEL, Purpose.OWN_PATHS),
            f"{privilege_remedy()}, {unit}",
        ),
        _capability(
            "CAP_NET_RAW",
            CAP_NET_RAW in held,
            (Purpose.ADVICE,),
            _without_raw(),
        ),
    ]


def _without_raw() -> str:
    if find_program("nft") is not None:
        return "only iptables-legacy wants it, and nftables is installed, so nothing is to be done"
    return (
        "iptables-legacy wants it and nftables does not, so install the package nftables, run as "
        "root, or set AmbientCapabilities=CAP_NET_RAW in its systemd unit"
    )


def _capability(name: str, held: bool, needed_for: tuple[Purpose, ...], without: str) -> Finding:
    if held:
        return Finding(name, Outcome.WORKS, "this process has it", needed_for)
    return Finding(name, Outcome.LACKS, f"this process has no {name}: {without}.", needed_for)


def tun_device(
    _setup: Setup, open_tun: Callable[[str, int], TunDevice] = TunDevice.open
) -> list[Finding]:
    """Make a TUN device as the node does, and remove it."""

    def attempt() -> str:
        open_tun(_TRIAL_DEVICE, MIN_MTU).close()
        return "one was made and removed"

    return [tried("TUN device", (Purpose.EXIT, Purpose.KERNEL, Purpose.OWN_PATHS), attempt)]


def packet_filter(
    _setup: Setup, find: Callable[[], ChosenFilter] = find_packet_filter
) -> list[Finding]:
    """Find the packet filter that guards destinations, serves an exit and walls in the kernel."""

    def attempt() -> str:
        return f"{type(find().chosen).__name__.lower()} takes rules for IPv4 and IPv6"

    return [tried("packet filter", (Purpose.EXIT, Purpose.KERNEL, Purpose.OWN_PATHS), attempt)]


def traffic_control(_setup: Setup, attempt: Callable[[], None] = try_egress) -> list[Finding]:
    """Put a program at the way out of a device; without it two walls hold destinations."""

    def put() -> str:
        attempt()
        return "it takes programs that hold destinations if the packet filter is lost"

    return [tried("traffic control", (Purpose.ADVICE,), put)]


def namespaces(_setup: Setup, new_namespaces: Callable[[], int] | None = None) -> list[Finding]:
    """Make network namespaces in a process of their own, which ends at once."""
    number = (new_namespaces or _try_namespaces)()
    if number == 0:
        said = "this user may make them"
        return [Finding("network namespaces", Outcome.WORKS, said, (Purpose.LABORATORY,))]
    remedy = (
        "give the container CAP_SYS_ADMIN (docker run --privileged)"
        if os.geteuid() == 0
        else "allow it with: sysctl -w kernel.unprivileged_userns_clone=1 "
        "user.max_user_namespaces=10000 (with AppArmor also "
        "kernel.apparmor_restrict_unprivileged_userns=0)"
    )
    said = f"making one failed ({os.strerror(number)}); {remedy}."
    return [Finding("network namespaces", Outcome.LACKS, said, (Purpose.LABORATORY,))]


def _try_namespaces() -> int:
    """Return 0, or the errno that unshare(2) gave."""
    is_root = int(os.geteuid() == 0)
    command = [sys.executable, "-I", "-S", "-c", _NEW_NAMESPACES, str(is_root)]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode
