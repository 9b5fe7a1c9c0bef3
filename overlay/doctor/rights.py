"""Check what this process may do: capabilities, TUN devices, packet filters, namespaces."""

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
"""Make namespaces with CLONE_NEWNET, and with CLONE_NEWUSER if not root (linux/sched.h)."""


def privileges(
    _setup: Setup, capabilities: Callable[[], frozenset[int]] = effective_capabilities
) -> list[Finding]:
    """Check for the two capabilities by name; other checks try the operations that need them."""
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
        return "only iptables-legacy needs it, and nftables is installed, so nothing is to be done"
    return (
        "iptables-legacy needs it and nftables does not, so install the package nftables, run as "
        "root, or set AmbientCapabilities=CAP_NET_RAW in its systemd unit"
    )


def _capability(name: str, held: bool, needed_for: tuple[Purpose, ...], without: str) -> Finding:
    if held:
        return Finding(name, Outcome.WORKS, "this process has it", needed_for)
    return Finding(name, Outcome.LACKS, f"this process has no {name}: {without}.", needed_for)


def tun_device(
    _setup: Setup, open_tun: Callable[[str, int], TunDevice] = TunDevice.open
) -> list[Finding]:
    """Create and remove a TUN device as the node does."""

    def attempt() -> str:
        open_tun(_TRIAL_DEVICE, MIN_MTU).close()
        return "one was created and removed"

    return [tried("TUN device", (Purpose.EXIT, Purpose.KERNEL, Purpose.OWN_PATHS), attempt)]


def packet_filter(
    _setup: Setup, find: Callable[[], ChosenFilter] = find_packet_filter
) -> list[Finding]:
    """Find the packet filter for the kill switch, for an exit and for the kernel backend."""

    def attempt() -> str:
        return f"{type(find().chosen).__name__.lower()} accepts rules for IPv4 and IPv6"

    return [tried("packet filter", (Purpose.EXIT, Purpose.KERNEL, Purpose.OWN_PATHS), attempt)]


def traffic_control(_setup: Setup, attempt: Callable[[], None] = try_egress) -> list[Finding]:
    """Attach an egress program to a device. Without it, two other layers block destinations."""

    def put() -> str:
        attempt()
        return "it accepts programs that block destinations if the packet filter is lost"

    return [tried("traffic control", (Purpose.ADVICE,), put)]


def namespaces(_setup: Setup, new_namespaces: Callable[[], int] | None = None) -> list[Finding]:
    """Create network namespaces in a child process, which ends at once."""
    number = (new_namespaces or _try_namespaces)()
    if number == 0:
        said = "this user may create them"
        return [Finding("network namespaces", Outcome.WORKS, said, (Purpose.LABORATORY,))]
    remedy = (
        "give the container CAP_SYS_ADMIN (docker run --privileged)"
        if os.geteuid() == 0
        else "allow it with: sysctl -w kernel.unprivileged_userns_clone=1 "
        "user.max_user_namespaces=10000 (with AppArmor also "
        "kernel.apparmor_restrict_unprivileged_userns=0)"
    )
    said = f"creating one failed ({os.strerror(number)}); {remedy}."
    return [Finding("network namespaces", Outcome.LACKS, said, (Purpose.LABORATORY,))]


def _try_namespaces() -> int:
    """Return 0, or the errno that unshare(2) gave."""
    is_root = int(os.geteuid() == 0)
    command = [sys.executable, "-I", "-S", "-c", _NEW_NAMESPACES, str(is_root)]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode
