"""Send the datagrams of the control cores: those of links and of the DHT.

The cores name the channel of each datagram, and the sender encodes it for the network. A node
frames datagrams for its UDP port. A simulated network may carry them in another form.

Reasons: docs/decisions/0064.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from overlay.addresses import Endpoint
from overlay.demultiplexer import Channel, frame
from overlay.node.shells.packet_transport import DatagramSink

__all__ = ["ChannelDatagram", "ChannelSender", "FramedSender"]

ChannelDatagram = tuple[Channel, bytes, Endpoint]
"""The channel of a datagram, its payload without a frame, and its receiver."""


class ChannelSender(Protocol):
    """Sends the datagrams of the control cores. It drops what the network does not accept."""

    def send(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send datagrams in this order, without waiting."""
        ...

    def send_whole(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send as :meth:`send` does, and forbid fragmentation."""
        ...

    def send_apart(self, datagram: ChannelDatagram) -> None:
        """Send one datagram from a UDP port that is used once."""
        ...


class FramedSender:
    """Frames each datagram and sends it from the UDP port of the node.

    Args:
        network: sends datagrams from the UDP port of the node.
        send_apart: sends a framed datagram from a UDP port that is used once.
    """

    def __init__(
        self, network: DatagramSink, send_apart: Callable[[bytes, Endpoint], None]
    ) -> None:
        self._network = network
        self._send_apart = send_apart

    def send(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send the framed datagrams as one batch."""
        self._network.send_batch(_framed(batch))

    def send_whole(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send the framed datagrams as one batch, and forbid fragmentation."""
        self._network.send_whole(_framed(batch))

    def send_apart(self, datagram: ChannelDatagram) -> None:
        """Send one framed datagram from a UDP port that is used once."""
        channel, payload, to = datagram
        self._send_apart(frame(channel, payload), to)


def _framed(batch: Sequence[ChannelDatagram]) -> list[tuple[bytes, Endpoint]]:
    return [(frame(channel, payload), to) for channel, payload, to in batch]
