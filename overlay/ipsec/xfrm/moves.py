"""From where else than expected authentic packets of link SAs came, as the kernel tells it.

The kernel accepts ESP in UDP from any address and port, and sends one ``XFRM_MSG_MAPPING`` for each
packet that did not come from where its SA says. So it may send many, and few are read.
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
"""Some twenty messages, because copied packets must not make this process read one for each."""

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
        """Return the endpoint from which packets with an SPI came last, for each SPI."""
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
        self._events.overrun = False  # what was lost is told again with the next packet
        return found
