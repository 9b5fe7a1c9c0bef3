"""Drop invalid messages of the link channel with one table look-up and at most one hash.

Any host can send such messages at any rate. So an invalid message is dropped before it is parsed,
before an exception is raised, and before its source is checked.
"""

from __future__ import annotations

from overlay.link.cookie import ReceiverKeys
from overlay.link.drops import LinkDrop
from overlay.link.handshake import GEOMETRY, MESSAGE_BYTES, PADDED, MessageType
from overlay.link.services import LinkNumbers

__all__ = ["DatagramFilter"]

_HEADER_BYTES = 2
_NUMBER = slice(2, 6)
_INITIATION = MessageType.INITIATION.value
_FOR_HANDSHAKES = frozenset((MessageType.RESPONSE.value, MessageType.COOKIE_REPLY.value))


class DatagramFilter:
    """Find messages to drop, with this node's keys and the indexes and SPIs in use."""

    def __init__(self, keys: ReceiverKeys, numbers: LinkNumbers) -> None:
        self._keys = keys
        self._numbers = numbers

    def drop(self, data: bytes) -> LinkDrop | None:
        """Return why a message must be dropped, or None if it must be parsed."""
        opening = data[:_HEADER_BYTES]
        size = len(data) if opening != PADDED else min(len(data), GEOMETRY.notice)
        if MESSAGE_BYTES.get(opening) != size:
            return LinkDrop.MALFORMED
        kind = data[0]
        if kind == _INITIATION:
            return None if self._keys.is_valid(data) else LinkDrop.NOT_AUTHENTIC
        number = int.from_bytes(data[_NUMBER], "big")
        if kind in _FOR_HANDSHAKES:
            known = self._numbers.has_index(number)
        else:
            known = self._numbers.has_spi(number)
        return None if known else LinkDrop.UNKNOWN
