"""An observer of one host's cable that sends copies of link initiations from its own address.

It holds the originals back, so the copies always come first, and passes on to the host what is
answered, under the sender's address. It has a cable of its own, as any other host.
"""

import select
import socket
import struct
import threading

from overlay.link.handshake import GEOMETRY

INITIATION = bytes.fromhex("000000000201")
"""Non-ESP marker, channel of the links, type of the message."""

INITIATION_BYTES = 5 + GEOMETRY.initiation
PORT = 666
_ETH_P_IP = 0x0800
_TABLE = """
table inet observer {{
  chain held_back {{
    type filter hook forward priority 0;
    ip saddr {host} meta l4proto udp @th,64,48 0x{initiation} counter drop
  }}
}}
"""


class Observer:
    """Watches ``host`` from ``place``; a context manager. ``copied`` counts initiations."""

    def __init__(self, host, place):
        self._host, self._place = host, place
        self._own, self._observed = str(place.ipv4.ip), str(host.ipv4.ip)
        self.copied = self.passed_on = self.esp = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        core, interface = self._host.core, self._host.core_interface
        table = _TABLE.format(host=self._observed, initiation=INITIATION.hex())
        core.run(["nft", table])
        self._tap = core.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        )
        self._tap.bind((interface, _ETH_P_IP))
        self._inject = self._place.namespace.call(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        self._inject.bind((self._own, PORT))
        self._spoof = self._place.namespace.call(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        )
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        for each in (self._tap, self._inject, self._spoof):
            each.close()
        self._host.core.run(["nft", "delete table inet observer"])

    def _run(self):
        while not self._stop.is_set():
            for readable in select.select([self._tap, self._inject], [], [], 0.1)[0]:
                if readable is self._tap:
                    self._copy(*self._tap.recvfrom(65_535))
                else:
                    self._pass_on(*self._inject.recvfrom(65_535))

    def _copy(self, packet, where):
        """Send an initiation of the host on, from here."""
        header = (packet[0] & 15) * 4
        # Veth carries what one call sent to one endpoint as one packet, segments behind each other.
        payload = packet[header + 8 :][:INITIATION_BYTES]
        outgoing = where[2] == socket.PACKET_OUTGOING  # to the host: what it receives
        if packet[9] != socket.IPPROTO_UDP or outgoing or not payload.startswith(INITIATION):
            return
        self._host_port, to_port = struct.unpack_from("!HH", packet, header)
        self.copied += 1
        self._inject.sendto(payload, (socket.inet_ntoa(packet[16:20]), to_port))

    def _pass_on(self, payload, sender):
        """Send what came here to the host, as if its sender had sent it there."""
        if not payload.startswith(INITIATION[:4]):
            self.esp += 1
        self.passed_on += 1
        udp = struct.pack("!HHHH", sender[1], self._host_port, 8 + len(payload), 0) + payload
        addresses = socket.inet_aton(sender[0]) + socket.inet_aton(self._observed)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
        self._spoof.sendto(ip + addresses + udp, (self._observed, 0))
