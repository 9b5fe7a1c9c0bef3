"""How many policies of ours the kernel holds, without decoding them.

A relay of a thousand circuits has some thousands of them. Decoding takes half a millisecond
each, finding our sign in the raw message a microsecond.

Format: Linux uapi ``linux/xfrm.h``; a policy begins with its selector, of which ``user`` is last.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from overlay.ipsec.xfrm.entries import OWNER
from overlay.ipsec.xfrm.messages import XFRM_MSG_GETPOLICY
from overlay.system.failures import refused
from overlay.system.netlink_messages import DUMP, answers, message

__all__ = ["count_policies"]

_NETLINK_XFRM: Final = 6
_USER_OFFSET: Final = 52
_POLICY_ID_BYTES: Final = 64
"""xfrm_userpolicy_id, which a dump carries empty."""


def count_policies() -> int:
    """Return the number of policies that bear the sign of this product.

    Raises:
        BackendError: the kernel did not tell.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, _NETLINK_XFRM) as netlink:
            netlink.bind((0, 0))
            netlink.send(message(XFRM_MSG_GETPOLICY, DUMP, bytes(_POLICY_ID_BYTES)))
            return sum(_is_ours(body) for body in answers(netlink))
    except OSError as error:
        raise refused("counting the kernel's IPsec policies", error) from error


def _is_ours(body: bytes) -> bool:
    if len(body) < _USER_OFFSET + 4:
        return False
    return bool(struct.unpack_from("=I", body, _USER_OFFSET)[0] == OWNER)
