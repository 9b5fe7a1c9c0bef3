"""Find the devices that send their frames through others: bridges, bonds, VLANs, macvlans.

A frame of this host leaves through a bridge and then through one of the bridge's ports. Networks
and routes only name the bridge, but egress programs of both devices process the frame.

Format: Linux uapi ``if_link.h``.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.netlink_messages import DUMP, answers, attributes, message

__all__ = ["through_lower_devices", "upper_devices"]

_GET_LINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_INDEX: Final = struct.Struct("=I")
_LINK, _MASTER, _LINKINFO, _OTHER_NAMESPACE = 5, 10, 18, 37
_KIND: Final = 1
_ON_TOP: Final = frozenset(("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"))
"""Kinds that send through the device of IFLA_LINK. For a veth, IFLA_LINK is the other end."""
_OPEN_VSWITCH: Final = "openvswitch"


def upper_devices(netlink: socket.socket) -> dict[int, set[int]]:
    """Return the indices of the devices that send through a device, by its index.

    Raises:
        OSError: the kernel refused.
    """
    masters: dict[int, int] = {}
    kinds: dict[int, str] = {}
    found: dict[int, set[int]] = defaultdict(set)
    netlink.send(message(_GET_LINK, DUMP, _IFINFOMSG.pack(0, 0, 0, 0, 0)))
    for body in answers(netlink):
        if len(body) < _IFINFOMSG.size:
            continue
        index = _IFINFOMSG.unpack_from(body)[2]
        given = attributes(body[_IFINFOMSG.size :])
        kind = attributes(given.get(_LINKINFO, b"")).get(_KIND, b"")
        kinds[index] = kind.rstrip(b"\0").decode(errors="replace")
        master, link = _index(given.get(_MASTER)), _index(given.get(_LINK))
        if master:
            masters[index] = master
            found[index].add(master)
        if link and kinds[index] in _ON_TOP and _OTHER_NAMESPACE not in given:
            found[link].add(index)
    for index, master in masters.items():
        # The host's own device of an Open vSwitch is one of the switch's ports.
        if kinds.get(master) == _OPEN_VSWITCH:
            found[index] |= {
                other
                for other, same in masters.items()
                if same == master and kinds[other] == _OPEN_VSWITCH
            }
    return dict(found)


def through_lower_devices(
    found: Mapping[int, set[IpNetwork]], uppers: Mapping[int, set[int]]
) -> dict[int, set[IpNetwork]]:
    """Return the networks of each device together with those of the devices above it."""
    whole: dict[int, set[IpNetwork]] = {}
    for index in found.keys() | uppers.keys():
        seen: set[int] = set()
        above = [index]
        while above:
            each = above.pop()
            if each not in seen:
                seen.add(each)
                above += uppers.get(each, ())
        together = set[IpNetwork]().union(*(found.get(each, ()) for each in seen))
        if together:
            whole[index] = together
    return whole


def _index(value: bytes | None) -> int:
    return int(_INDEX.unpack(value)[0]) if value is not None and len(value) == 4 else 0
