"""Which changes of the host are a reason to review the exit."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Final

from overlay.system.host_events import (
    AddressChanged,
    FilterChanged,
    HostEvent,
    LinkChanged,
    Overrun,
    RouteChanged,
)

__all__ = ["concerns_exit"]

_OWN_DEVICES: Final = ("anon", "exit")
"""What the names of a node's own devices begin with: they change with every circuit."""

_LOCAL_TABLE: Final = 255


def concerns_exit(events: Iterable[HostEvent], name_of: Callable[[int], str] | None = None) -> bool:
    """Tell whether routes, addresses, devices or filters changed that are not a circuit's."""
    return any(_concerns(event, name_of or _device_name) for event in events)


def _concerns(event: HostEvent, name_of: Callable[[int], str]) -> bool:
    match event:
        case FilterChanged() | Overrun():
            return True
        case LinkChanged(name=name):
            return not name.startswith(_OWN_DEVICES)
        case AddressChanged(index=index):
            return not name_of(index).startswith(_OWN_DEVICES)
        case RouteChanged(table=table, index=index):
            return table != _LOCAL_TABLE and not name_of(index).startswith(_OWN_DEVICES)
        case _:
            return False


def _device_name(index: int) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""
