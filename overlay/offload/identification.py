"""Choose the IPv4 identifications of TCP segments that leave an exit.

A kernel that cuts a super-packet increments the identification from segment to segment. If all
super-packets began with 0, the destination would see which segments came in one of them, and so
how the exit works. Therefore the first value follows from the sequence number::

    identification = secret offset of the flow + sequence number / payload of a whole segment

A segment has this value whether the kernel cut it from a super-packet or it was written alone. The
values look like the counter of a connection, which many hosts use. Any value is permitted, because
the packets are atomic (RFC 6864, section 4.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from overlay.forwarding.checksum import updated_checksum
from overlay.forwarding.headers import ATOMIC, TCP
from overlay.sensitive import SecretBytes

__all__ = ["KEY_BYTES", "Identifications"]

KEY_BYTES: Final = 16


class Identifications:
    """Set the identifications of TCP segments with data; other packets keep theirs (0)."""

    def __init__(self, key: SecretBytes, segment_bytes: int) -> None:
        """Store the arguments.

        Args:
            key: a secret of this node, ``KEY_BYTES`` long.
            segment_bytes: size of a whole segment, IP header included.
        """
        self._key = key
        self._segment_bytes = segment_bytes

    def chosen(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return the packets in order, those that need no change as the same objects."""
        return [self._with_identification(p) if _is_plain_tcp(p) else p for p in packets]

    def _with_identification(self, packet: bytes) -> bytes:
        header_bytes = 20 + ((packet[32] >> 4) << 2)
        room = self._segment_bytes - header_bytes
        if len(packet) <= header_bytes or room < 1:
            return packet
        flow = packet[12:24]  # addresses and ports
        digest = hashlib.blake2s(flow, digest_size=2, key=self._key.reveal()).digest()
        offset = int.from_bytes(digest, "big")
        number = int.from_bytes(packet[24:28], "big") // room
        value = ((offset + number) & 0xFFFF).to_bytes(2, "big")
        checksum = updated_checksum(int.from_bytes(packet[10:12], "big"), b"\0\0", value)
        return b"".join(
            (packet[:4], value, packet[6:10], checksum.to_bytes(2, "big"), memoryview(packet)[12:])
        )


def _is_plain_tcp(packet: bytes) -> bool:
    """Tell whether a packet is IPv4 without options, atomic with identification 0, and TCP."""
    return packet[0] == 0x45 and packet[9] == TCP and packet[4:8] == ATOMIC and len(packet) >= 40
