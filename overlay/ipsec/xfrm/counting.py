"""Count the policies of this product in the kernel without decoding them.

A relay with a thousand circuits has some thousands of policies. Decoding takes half a millisecond
for each. Reading only the owner in the raw message takes a microsecond.

Format: Linux uapi ``linux/xfrm.h``. A policy begins with its selector, and ``user`` is the last
field of a selector.
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
"""Size of xfrm_userpolicy_id, which is empty in the request of a dump."""


def count_policies() -> int:
    """Return the number of policies whose owner is this product.

    Raises:
        BackendError: the kernel did not answer.
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
