"""Remove what a killed node of the kernel backend left, if the next start uses another backend."""

from __future__ import annotations

from typing import Final

from overlay.ipsec.xfrm.changes import remove_leftovers
from overlay.ipsec.xfrm.netlink import XfrmSocket
from overlay.system.ownership import Ownership

__all__ = ["KERNEL_IPSEC", "STOP_THE_OTHER", "clear_leftovers"]

KERNEL_IPSEC: Final = "kernel-ipsec"
"""Name of the lock of a running kernel backend in its network namespace (:class:`Ownership`)."""

STOP_THE_OTHER: Final = "stop it, or run this one in a namespace of its own"


def clear_leftovers() -> int:
    """Remove every SA and policy of this product; return how many there were.

    Raises:
        BackendError: a running node owns them, there is no permission, or no XFRM.
    """
    owner = Ownership(KERNEL_IPSEC, STOP_THE_OTHER)
    try:
        with XfrmSocket() as netlink:
            return remove_leftovers(netlink)
    finally:
        owner.release()
