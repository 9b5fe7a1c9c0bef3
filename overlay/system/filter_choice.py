"""Which packet filter this host offers."""

from __future__ import annotations

import shutil

from overlay.errors import BackendError
from overlay.system.failures import PRIVILEGE_REMEDY
from overlay.system.iptables import Iptables
from overlay.system.nftables import Nftables
from overlay.system.packet_filter import PacketFilter

__all__ = ["find_packet_filter"]


def find_packet_filter() -> PacketFilter:
    """Return nftables where the kernel takes it for both IP versions, else legacy iptables.

    Raises:
        BackendError: neither works; without one, no destination can be guarded.
    """
    nftables, iptables = Nftables(), Iptables()
    if shutil.which("nft") is not None and nftables.usable():
        return nftables
    if iptables.usable():
        return iptables
    raise BackendError(
        "no packet filter works here (neither nft nor iptables-legacy and ip6tables-legacy): "
        f"install the package nftables, and {PRIVILEGE_REMEDY}."
    )
