"""Report authentic packets of link SAs that come from another endpoint than that of the SA.

The kernel accepts ESP in UDP from any address and port. It sends one ``XFRM_MSG_MAPPING`` for each
packet that does not come from the endpoint of its SA. There may be many, so only a few are read.
"""

from __future__ import annotations

import socket
from typing import Final, Self

from overlay.addresses import Endpoint
from overlay.errors import Malformed
from overlay.ipsec.xfrm.messages import XFRM_MSG_MAPPING, XFRMNLGRP_MAPPING
from overlay.ipsec.xfrm.netlink import XfrmEvents

__all__ = ["MovedPeers"]

_BUFFER_BYTES: Final = 16_384
"""Space for some twenty messages, so that copied packets do not make this process read many."""

_ADDRESS_BYTES: Final = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}


class MovedPeers:
    """A subscription to changed mappings; a context manager."""

    def __init__(self) -> None:
        """Subscribe.

        Raises:
            BackendError: the kernel has no XFRM, or there is no permission.
        """
        self._events = XfrmEvents((XFRMNLGRP_MAPPING,), buffer_bytes=_BUFFER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when :meth:`drain` has news."""
        return self._events.fileno()

    def drain(self) -> dict[int, Endpoint]:
        """Return the last endpoint from which packets with an SPI came, for each SPI."""
        found = {}
        for message in self._events.drain():
            size = _ADDRESS_BYTES.get(message["family"], 0)
            if message["header"]["type"] != XFRM_MSG_MAPPING or not size:
                continue
            try:
                source = Endpoint.from_packed(message["new_saddr"][:size], message["new_sport"])
            except Malformed:
                continue  # port 0
            found[message["spi"]] = source
        self._events.overrun = False  # the next packet causes another message
        return found
