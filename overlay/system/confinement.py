"""Drop rights that a node does not need, before it talks to unauthenticated senders.

A program that runs as root has about forty capabilities. A node usually needs only those below. So
an attacker who exploits a fault in its parsers gets no others::

    CAP_NET_ADMIN          devices, routes, packet filters, IPsec, firewall marks
    CAP_NET_RAW            iptables-legacy talks to the kernel through a raw socket, and ICMP errors
                           about refused packets leave through one (``refused_packets.py``)
    CAP_NET_BIND_SERVICE   UDP ports below 1024, also after a reload
    CAP_BPF                the programs that route large packets again (docs/decisions/0014);
                           CAP_SYS_ADMIN before Linux 5.8, which has no CAP_BPF

The others are removed from the effective, permitted, inheritable and bounding sets. So programs
that the node starts (nft, iptables) cannot get them either. Core dumps and debuggers of the same
user are blocked, because the process has private keys.

Sources: capabilities(7), prctl(2), capset(2), core(5).

Reasons: docs/decisions/0042.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from overlay.errors import BackendError, ConfigurationError
from overlay.system.failures import refused
from overlay.system.filter_choice import find_packet_filter
from overlay.system.privileges import CAP_NET_ADMIN, CAP_NET_RAW, effective_capabilities

__all__ = [
    "allow_open_files",
    "confine_process",
    "forbid_dumps",
    "keep_capabilities",
    "needed_capabilities",
]

_CAP_DAC_OVERRIDE: Final = 1
_CAP_NET_BIND_SERVICE: Final = 10
_CAP_SYS_ADMIN: Final = 21
_CAP_BPF: Final = 39

# From Linux's uapi prctl.h and capability.h.
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_LEAST_FILES: Final = 64
"""A node with one port has about 30 files open, and programs of the packet filter need pipes."""

_MOST_FILES: Final = 1024
"""The usual limit of Linux. A node has ports, devices and 64 clients of its control socket."""

_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")


def confine_process(files: Iterable[Path]) -> frozenset[int]:
    """Forbid dumps, raise the limit of open files, and drop capabilities that are not needed.

    Call it before any thread is started.

    Args:
        files: files that the node reads and writes; see :func:`needed_capabilities`.

    Returns:
        The remaining capabilities.

    Raises:
        BackendError: the kernel refused.
        ConfigurationError: see :func:`allow_open_files`.
    """
    allow_open_files()
    # Try the packet filter first, because iptables-legacy loads its kernel modules itself. This
    # requires CAP_SYS_MODULE, which is dropped below.
    with contextlib.suppress(BackendError):
        find_packet_filter()
    forbid_dumps()
    return keep_capabilities(needed_capabilities(files))


def forbid_dumps() -> None:
    """Keep the memory of this process out of core dumps and from debuggers of the same user.

    Raises:
        BackendError: the kernel refused.
    """
    try:
        _prctl(_PR_SET_DUMPABLE, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except OSError as error:
        raise refused("forbidding core dumps", error) from error


def allow_open_files() -> None:
    """Raise the limit of open files of this process to what a node may need.

    Raises:
        ConfigurationError: the system allows fewer files than any node needs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if most < _LEAST_FILES:
        raise ConfigurationError(
            f"this process may open {most} files, and a node needs {_LEAST_FILES}; raise the limit "
            "with: ulimit -n 1024 (in a unit of systemd: LimitNOFILE=1024)."
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def needed_capabilities(files: Iterable[Path]) -> frozenset[int]:
    """Return the capabilities that a node keeps.

    Args:
        files: files that the node reads and writes. If one belongs to another user, root needs
            CAP_DAC_OVERRIDE to use it.

    Raises:
        BackendError: the kernel does not tell which capabilities it has.
    """
    needed = {CAP_NET_ADMIN, CAP_NET_RAW, _CAP_NET_BIND_SERVICE}
    needed.add(_CAP_BPF if _last_capability() >= _CAP_BPF else _CAP_SYS_ADMIN)
    if any(_is_of_another_user(each) for each in files):
        needed.add(_CAP_DAC_OVERRIDE)
    return frozenset(needed)


def keep_capabilities(needed: frozenset[int]) -> frozenset[int]:
    """Drop every capability except the needed ones, for this process and its children.

    The calling thread is affected, and all threads and processes that it starts later.

    Returns:
        The remaining capabilities; an ordinary user has none.

    Raises:
        BackendError: the kernel refused.
    """
    kept = effective_capabilities() & needed
    _drop_from_bounding_set(needed)
    _set_capabilities(kept)
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise refused("forbidding new privileges", error) from error
    return kept


def _is_of_another_user(path: Path) -> bool:
    try:
        return path.stat().st_uid != os.geteuid()
    except OSError:  # it does not exist yet, or this user may not see it
        return False


def _last_capability() -> int:
    try:
        return int(_LAST_CAPABILITY.read_text(encoding="ascii"))
    except OSError as error:
        remedy = "mount the proc file system at /proc"
        raise refused("reading the capabilities of the kernel", error, remedy) from error


def _drop_from_bounding_set(needed: frozenset[int]) -> None:
    """Drop all other capabilities from the bounding set.

    Without CAP_SETPCAP the set stays as it is. Then no_new_privs has the same effect.
    """
    for capability in range(_last_capability() + 1):
        if capability in needed or _libc().prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) != 1:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EPERM:
                return
            raise refused("giving up a capability", error) from error


def _set_capabilities(kept: frozenset[int]) -> None:
    """Make the kept capabilities effective, permitted and inheritable (capset(2), version 3)."""
    bits = sum(1 << number for number in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=IIIIII", low, low, low, high, high, high)
    if _libc().capset(header, sets) != 0:
        number = ctypes.get_errno()
        raise refused("giving up capabilities", OSError(number, os.strerror(number)))


def _prctl(option: int, value: int) -> None:
    """Call prctl(2); raise OSError if the kernel refuses."""
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return libc
