"""Send prepared UDP payloads to one endpoint at a steady rate, each from another address.

::

    python3 -m lab.flood TARGET PORT RATE SECONDS [SOURCE SOURCE_PORT] < payloads

Standard input contains payloads as ``size (2, big-endian) | payload``. They are sent in turn
through a raw socket, with forged source addresses and ports. Each is one IP packet, so that no
kernel can aggregate them. Sources are in 198.18.0.0/15 or 2001:2::/48 (RFC 2544, RFC 5180), unless
one source is given.

The first line of output is "begun". The second one is a JSON object with ``sent`` (datagrams),
``seconds``, and ``cpu_s``, the processor time of this process. Most of this time is the kernel's
delivery up to the receiver's queue.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final

from overlay.system.message_structs import IoVector, Message

__all__ = ["pack_payloads"]

_PACKETS: Final = 4096
"""Number of prepared packets, each with another source."""

_TICK_S: Final = 0.0005
"""Interval in seconds of groups of datagrams; at 20,000 a second a group has ten."""

_IPV6_HDRINCL: Final = 36
_UDP: Final = 17


def pack_payloads(payloads: Sequence[bytes]) -> bytes:
    """Return payloads in the format that this program reads."""
    return b"".join(len(each).to_bytes(2, "big") + each for each in payloads)


def _unpack_payloads(data: bytes) -> list[bytes]:
    payloads = []
    while data:
        size = int.from_bytes(data[:2], "big")
        payloads.append(data[2 : 2 + size])
        data = data[2 + size :]
    return payloads


def _packet(
    payload: bytes, target: str, port: int, rng: random.Random, forged: tuple[str, int] | None
) -> bytes:
    destination = ipaddress.ip_address(target)
    ports = struct.pack(">HH", forged[1] if forged else rng.randrange(1024, 65536), port)
    length = struct.pack(">H", 8 + len(payload))
    if destination.version == 4:
        source = bytes((198, 18 + rng.randrange(2))) + rng.randbytes(2)
        if forged:
            source = ipaddress.ip_address(forged[0]).packed
        header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, _UDP, 0)
        return header + source + destination.packed + ports + length + bytes(2) + payload
    source = bytes.fromhex("200100020000") + rng.randbytes(10)
    if forged:
        source = ipaddress.ip_address(forged[0]).packed
    header = struct.pack(">IHBB", 6 << 28, 8 + len(payload), _UDP, 64)
    datagram = ports + length + bytes(2) + payload
    checksum = _checksum(source + destination.packed + length + bytes((0, _UDP)) + datagram)
    datagram = datagram[:6] + struct.pack(">H", checksum or 0xFFFF) + datagram[8:]
    return header + source + destination.packed + datagram


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(0xFFFF - total)


class _Flood:
    """Packets for sendmmsg(2); it holds references to the memory that the kernel reads."""

    def __init__(self, packets: Sequence[bytes], target: str) -> None:
        ipv6 = ":" in target
        self._socket = socket.socket(
            socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
        )
        if ipv6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        family = struct.pack("=H", socket.AF_INET6 if ipv6 else socket.AF_INET)
        packed = ipaddress.ip_address(target).packed
        name = family + (bytes(6) + packed + bytes(4) if ipv6 else bytes(2) + packed + bytes(8))
        self._name = ctypes.create_string_buffer(name, len(name))
        self._buffers = [ctypes.create_string_buffer(each, len(each)) for each in packets]
        self._vectors = (IoVector * len(packets))()
        self._messages = (Message * len(packets))()
        for index, packet in enumerate(packets):
            self._vectors[index].base = ctypes.addressof(self._buffers[index])
            self._vectors[index].length = len(packet)
            message = self._messages[index].header
            message.name, message.name_length = ctypes.addressof(self._name), len(name)
            message.vectors = ctypes.addressof(self._vectors[index])
            message.vector_count = 1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._next = 0

    def send(self, count: int) -> int:
        """Send up to ``count`` of the packets and return the number of those that left."""
        count = min(count, len(self._messages) - self._next)
        at = ctypes.byref(self._messages, self._next * ctypes.sizeof(Message))
        sent = int(self._libc.sendmmsg(self._socket.fileno(), at, count, 0))
        self._next = (self._next + count) % len(self._messages)
        return max(0, sent)


def _main(arguments: Sequence[str]) -> None:
    target, port, rate, seconds = arguments[:4]
    forged = (arguments[4], int(arguments[5])) if arguments[4:] else None
    payloads = _unpack_payloads(sys.stdin.buffer.read())
    rng = random.Random(1)
    chosen = [payloads[index % len(payloads)] for index in range(_PACKETS)]
    flood = _Flood([_packet(each, target, int(port), rng, forged) for each in chosen], target)
    print("begun", flush=True)
    sent, begun, cpu_begun = 0, time.monotonic(), time.process_time()
    tried = 0
    while (elapsed := time.monotonic() - begun) < float(seconds):
        due = int(elapsed * float(rate)) - tried
        if due > 0:
            tried += due
            sent += flood.send(due)
        time.sleep(_TICK_S)
    result = {"sent": sent, "seconds": elapsed, "cpu_s": time.process_time() - cpu_begun}
    print(json.dumps(result))


if __name__ == "__main__":
    _main(sys.argv[1:])
