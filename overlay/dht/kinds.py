"""The kinds of DHT datagrams."""

from __future__ import annotations

import enum

__all__ = ["MessageKind"]


class MessageKind(enum.IntEnum):
    """What a datagram is; the number on the wire."""

    CHALLENGE = 0
    PING = 1
    FIND_NODE = 2
    FIND_RECORD = 3
    STORE = 4
    LEAVE = 5
    WANT_PROBE = 6
    SEND_PROBE = 7
    MEET = 8
    PONG = 11
    CONTACTS = 12
    RECORD = 13
    STORED = 14
    LEFT = 15
    PROBE_STATE = 16
    MET = 17

    @property
    def is_request(self) -> bool:
        """Whether it asks for an answer."""
        return MessageKind.PING <= self <= MessageKind.MEET
