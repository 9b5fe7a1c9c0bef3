"""Find the packets from a circuit that answer packets which this host sent into one.

The packet filter accepts only answers. If another program flushes its rules, an exit could reach
every service of this host that listens on all addresses, until the node restores them. So the
source also checks packets itself, without the kernel::

    TCP, UDP    pass if addresses and ports are those of a sent packet, with the ends swapped
    ICMP        an echo reply passes if its identifier is that of a sent request, an error passes
                if it quotes a sent packet
    fragments   later ones pass, because the kernel cannot reassemble them without the first
    other       dropped, because the source sends no other protocol

Sent packets are remembered in two generations. This bounds the memory and keeps conversations that
are in use. Unlike connection tracking, this module does not notice the end of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.forwarding.headers import ICMP, ICMPV6, IPV6_FRAGMENT, TCP, UDP

__all__ = ["MAX_REMEMBERED", "AskedFor"]

MAX_REMEMBERED: Final = 32_768
"""Conversations of one generation; both generations together take about 15 MB."""

_WITH_PORTS: Final = frozenset((TCP, UDP))
_ECHO_REQUEST: Final = {ICMP: 8, ICMPV6: 128}
_ECHO_REPLY: Final = {ICMP: 0, ICMPV6: 129}
_ERRORS: Final = {ICMP: frozenset((3, 4, 5, 11, 12)), ICMPV6: frozenset((1, 2, 3, 4))}
_FRAGMENT_OFFSET: Final = {4: 0x1FFF, 6: 0xFFF8}
_LATER_FRAGMENT: Final = b""
"""Used instead of the key of a conversation, because a later fragment contains no ports."""


class AskedFor:
    """The conversations that this host began, without I/O."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        """Start empty; ``most`` is the largest number of conversations in each generation."""
        self._most = most
        self._recent: set[bytes] = set()
        self._before: set[bytes] = set()
        self._noted: set[bytes] = set()

    def __len__(self) -> int:
        """Return the number of conversations; one that is in both generations counts twice."""
        return len(self._recent) + len(self._before)

    def left(self, packets: Sequence[bytes]) -> None:
        """Remember packets that leave this host through a circuit."""
        for packet in packets:
            # These bytes are equal in all packets of a conversation. So only its first packet
            # needs the full parse below.
            ends = _ends(packet)
            if ends in self._noted:
                continue
            key = _of_question(packet)
            if key is None:
                continue
            if key not in self._recent:
                if len(self._recent) >= self._most:
                    self._before, self._recent = self._recent, set()
                    self._noted.clear()
                self._recent.add(key)
            # Otherwise options or extension headers are at the usual place of the ports.
            if len(key) == len(ends) and key[0] == ends[0]:
                self._noted.add(ends)

    def answers(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return the packets from circuits that answer sent packets, in their order."""
        recent = self._recent
        return [each for each in packets if _ends(each) in recent or self._is_answer(each)]

    def _is_answer(self, packet: bytes) -> bool:
        key = _of_answer(packet)
        return key is not None and (
            key == _LATER_FRAGMENT or key in self._recent or key in self._before
        )


def _ends(packet: bytes) -> bytes:
    """Return protocol, addresses and ports of a packet without options or extension headers.

    The result for any other packet has the same form but other content.
    """
    if packet[:1] == b"\x45":
        return packet[9:10] + packet[12:24]
    return packet[6:7] + packet[8:44]


def _of_question(packet: bytes) -> bytes | None:
    """Return the key of the conversation of a packet that this host sends, None if it has none."""
    found = _upper(packet)
    if found is None:
        return None
    protocol, at, near, far = found
    if protocol in _WITH_PORTS:
        return bytes((protocol,)) + far + near + packet[at + 2 : at + 4] + packet[at : at + 2]
    if packet[at] == _ECHO_REQUEST.get(protocol):
        return bytes((protocol,)) + far + near + packet[at + 4 : at + 6]
    return None


def _of_answer(packet: bytes) -> bytes | None:
    """Return the key of the conversation that a packet from a circuit answers, None if none."""
    found = _upper(packet)
    if found is None:
        return _LATER_FRAGMENT if _is_later_fragment(packet) else None
    protocol, at, far, near = found
    if protocol in _WITH_PORTS:
        return bytes((protocol,)) + far + near + packet[at : at + 4]
    kind = packet[at]
    if kind == _ECHO_REPLY.get(protocol):
        return bytes((protocol,)) + far + near + packet[at + 4 : at + 6]
    if kind in _ERRORS.get(protocol, ()):
        quoted = packet[at + 8 :]
        return _of_question(quoted) if quoted[:1] and quoted[0] >> 4 == packet[0] >> 4 else None
    return None


def _upper(packet: bytes) -> tuple[int, int, bytes, bytes] | None:
    """Return the protocol, the offset of its header in bytes, the source and the destination.

    None if there is no such header, for example in a later fragment. At least 8 bytes of the
    header are present, because an ICMP error may quote only that many (RFC 792).
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 28:
        at = (packet[0] & 15) << 2
        if int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET[4] or at < 20:
            return None
        return (packet[9], at, packet[12:16], packet[16:20]) if at + 8 <= len(packet) else None
    if version == 6 and len(packet) >= 48:
        protocol, at = packet[6], 40
        if protocol == IPV6_FRAGMENT:
            if int.from_bytes(packet[42:44], "big") & _FRAGMENT_OFFSET[6]:
                return None
            protocol, at = packet[40], 48
        return (protocol, at, packet[8:24], packet[24:40]) if at + 8 <= len(packet) else None
    return None


def _is_later_fragment(packet: bytes) -> bool:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return bool(int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET[4])
    if version == 6 and len(packet) > 48 and packet[6] == IPV6_FRAGMENT:
        return bool(int.from_bytes(packet[42:44], "big") & _FRAGMENT_OFFSET[6])
    return False
