"""Separate ESP from control traffic on one UDP port by their first bytes (RFC 3948, 2.2).

::

    0xFF                                   NAT keepalive (RFC 3948, 2.3)
    0 0 0 0 | channel | payload            control: channel 1 is the DHT, 2 the link handshake
    SPI (not 0) | sequence number | ...    ESP

Reasons: docs/decisions/0002.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from overlay.addresses import Endpoint

__all__ = ["NAT_KEEPALIVE", "NON_ESP_MARKER", "Channel", "Demultiplexed", "demultiplex", "frame"]

NON_ESP_MARKER: Final = bytes(4)
NAT_KEEPALIVE: Final = b"\xff"

_ESP_HEADER_BYTES: Final = 8
_CHANNEL_OFFSET: Final = len(NON_ESP_MARKER)
_PAYLOAD_OFFSET: Final = _CHANNEL_OFFSET + 1


class Channel(enum.IntEnum):
    """The receiver of a control datagram: the byte after the marker."""

    DHT = 1
    LINK = 2


def frame(channel: Channel, payload: bytes) -> bytes:
    """Return the UDP payload that carries a control message."""
    return NON_ESP_MARKER + bytes((channel,)) + payload


@dataclass(slots=True)
class Demultiplexed:
    """One batch of datagrams by receiver; control payloads are without marker and channel."""

    esp: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    dht: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    link: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    keepalives: int = 0
    malformed: int = 0

    def __len__(self) -> int:
        """Return the number of datagrams that a receiver must process."""
        return len(self.esp) + len(self.dht) + len(self.link)

    def move_to(self, other: Demultiplexed, most: int) -> int:
        """Append at most ``most`` datagrams to ``other`` and return the number of the others."""
        other.keepalives += self.keepalives
        other.malformed += self.malformed
        room = most
        lists = ((self.dht, other.dht), (self.link, other.link), (self.esp, other.esp))
        for mine, theirs in lists:
            theirs += mine[:room]
            room -= min(room, len(mine))
        return len(self) - (most - room)


def demultiplex(batch: Iterable[tuple[bytes, Endpoint]]) -> Demultiplexed:
    """Sort datagrams by receiver, in order of arrival.

    Raises:
        Nothing, whatever the bytes: invalid datagrams are counted as ``malformed``.
    """
    result = Demultiplexed()
    for item in batch:
        data = item[0]
        if not data.startswith(NON_ESP_MARKER):
            if len(data) >= _ESP_HEADER_BYTES:
                result.esp.append(item)
            elif data == NAT_KEEPALIVE:
                result.keepalives += 1
            else:
                result.malformed += 1
        else:
            _control(result, data, item[1])
    return result


def _control(result: Demultiplexed, data: bytes, source: Endpoint) -> None:
    channel = data[_CHANNEL_OFFSET] if len(data) > _PAYLOAD_OFFSET else 0
    if channel == Channel.LINK:
        result.link.append((data[_PAYLOAD_OFFSET:], source))
    elif channel == Channel.DHT:
        result.dht.append((data[_PAYLOAD_OFFSET:], source))
    else:
        result.malformed += 1
