"""Capture every packet of one interface.

The kernel writes each packet into a ring of memory that it shares with this process
(PACKET_RX_RING, packet(7)). No code of this process runs during the traffic. :meth:`Capture.stop`
writes the ring into a pcap file that tcpdump, tshark and :mod:`lab.reading` can read. The capture
is complete from the return of :meth:`Capture.start` on. If a packet finds no room,
:meth:`Capture.stop` raises an error, because an incomplete capture proves nothing.

::

    ring: frame | frame | ...    frame: tpacket2_hdr (32) | ... | from tp_mac: the packet

tcpdump is not used, because it changes its groups, which a user namespace forbids to an
unprivileged user. Format: Linux uapi ``linux/if_packet.h``, TPACKET_V2.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from lab.namespaces import LabError, Namespace
from lab.reading import Packet, read_packets

__all__ = ["Capture"]

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_RX_RING: Final = 5
_PACKET_STATISTICS: Final = 6
_PACKET_VERSION: Final = 10
_TPACKET_V2: Final = 1
_STATUS_USER: Final = 1
_HEADER: Final = struct.Struct("=IIIHHII")
"""tp_status, tp_len, tp_snaplen, tp_mac, tp_net, tp_sec, tp_nsec."""

_ROOM_BEFORE_PACKET: Final = 80
"""Header, socket address and alignment, before the network header of a frame."""

_BLOCK_BYTES: Final = 1 << 20
_LINK_TYPES: Final = {1: 1, 772: 1, 0xFFFE: 101}
"""ARPHRD of Ethernet, loopback and TUN -> link type in the file."""

_PCAP_NANOSECONDS: Final = 0xA1B23C4D
_LOOKS: Final = 1000
"""Number of further checks for a packet that another CPU is still writing."""


class Capture:
    """Record an interface of a namespace into ``path``; a context manager.

    ``snaplen_bytes`` is the number of bytes that are kept of each frame (headers fit in 128).
    ``most_packets`` is the maximum number of packets, each of about ``snaplen_bytes + 80`` bytes.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        path: Path,
        *,
        snaplen_bytes: int = 128,
        most_packets: int = 200_000,
    ) -> None:
        self.path = path
        self.interface = interface
        self._namespace = namespace
        self._snaplen = snaplen_bytes
        self._frame_bytes = (_ROOM_BEFORE_PACKET + snaplen_bytes + 15) & ~15
        self._frames_per_block = _BLOCK_BYTES // self._frame_bytes
        self._blocks = -(-most_packets // self._frames_per_block)
        self._socket: socket.socket | None = None
        self._ring: mmap.mmap | None = None
        self._link_type = 0

    def start(self) -> None:
        """Begin; the kernel records every packet from the return of this method on.

        Raises:
            LabError: there is no such interface, or no permission.
        """
        try:
            self._socket = self._namespace.call(self._open)
            self._socket.bind((self.interface, _ETH_P_ALL))
        except OSError as error:
            self._release()
            raise LabError(f"capturing on {self.interface} failed: {error.strerror}.") from error
        hardware = self._socket.getsockname()[3]
        self._link_type = _LINK_TYPES.get(hardware, 1)

    def stop(self) -> None:
        """End, and write the file; a repeated call does nothing.

        Raises:
            LabError: more packets passed than fit.
        """
        if self._socket is None:
            return
        try:
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            packets, dropped = struct.unpack("=II", statistics)
            self._write(packets - dropped)
        finally:
            self._release()
        if dropped:
            raise LabError(
                f"the capture on {self.interface} missed {dropped} of {packets} packets: "
                "give it a larger most_packets."
            )

    def packets(self) -> Iterator[Packet]:
        """Yield the captured packets, after :meth:`stop`."""
        return read_packets(self.path)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open(self) -> socket.socket:
        # Protocol 0 receives nothing, so that the ring exists before the first packet arrives.
        new = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            frames = self._frames_per_block * self._blocks
            request = struct.pack("=IIII", _BLOCK_BYTES, self._blocks, self._frame_bytes, frames)
            new.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            new.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._ring = mmap.mmap(new.fileno(), _BLOCK_BYTES * self._blocks)
        except BaseException:
            new.close()
            raise
        return new

    def _release(self) -> None:
        if self._ring is not None:
            self._ring.close()
        if self._socket is not None:
            self._socket.close()
        self._ring = self._socket = None

    def _write(self, expected: int) -> None:
        for _ in range(_LOOKS):
            records = list(self._records())
            if len(records) >= expected:
                break
        head = struct.pack(
            "=IHHiIII", _PCAP_NANOSECONDS, 2, 4, 0, 0, self._snaplen, self._link_type
        )
        self.path.write_bytes(b"".join((head, *records)))

    def _records(self) -> Iterator[bytes]:
        """Yield the ring's packets as records of the file, oldest first."""
        ring = self._ring
        if ring is None:
            return
        for block in range(self._blocks):
            for frame in range(self._frames_per_block):
                at = block * _BLOCK_BYTES + frame * self._frame_bytes
                status, length, kept, start, _, seconds, fraction = _HEADER.unpack_from(ring, at)
                if not status & _STATUS_USER:
                    return
                kept = min(kept, self._snaplen)
                head = struct.pack("=IIII", seconds, fraction, kept, length)
                yield head + ring[at + start : at + start + kept]
