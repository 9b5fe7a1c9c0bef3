"""Control packets between the cores and the kernel's sockets."""

from overlay.addresses import Endpoint
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_PORT, SizeProbe, encode_control
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.node.shells.kernel_transport import CONTROL_PORTS, KernelTransport
from overlay.system.control_sockets import ControlDatagram

NOW = 1_000_000_000.0
OWN = bytes.fromhex("fd6d6978") + bytes(11) + b"\1"
PEER = bytes.fromhex("fd6d6978") + bytes(11) + b"\2"


class Socket:
    def __init__(self):
        self.sent = []

    def send(self, source, destination, port, payload, *, whole=False):
        self.sent.append((source, destination, port, payload, whole))


def make():
    sockets = {port: Socket() for port in CONTROL_PORTS}
    return KernelTransport(sockets), sockets


def test_a_packet_leaves_by_the_socket_of_its_source_port():
    path, sockets = make()
    packet = build_datagram(UdpDatagram(OWN, PEER, CONTROL_PORT, CONTROL_PORT, b"ping"))
    path.send([packet], NOW)
    assert sockets[CONTROL_PORT].sent == [(OWN, PEER, CONTROL_PORT, b"ping", False)]
    assert sockets[SIGNALLING_PORT].sent == []


def test_only_a_size_probe_must_not_be_fragmented():
    path, sockets = make()
    probe = encode_control(SizeProbe(bytes(8), is_proved=False, size=1252))
    for port, payload in ((CONTROL_PORT, probe), (SIGNALLING_PORT, bytes(1252))):
        path.send([build_datagram(UdpDatagram(OWN, PEER, port, port, payload))], NOW)
        assert sockets[port].sent[0][4] is (payload == probe)


def test_a_datagram_becomes_the_packet_that_it_was():
    path, _ = make()
    arrived = path.received(
        SIGNALLING_PORT, [ControlDatagram(PEER, OWN, SIGNALLING_PORT, b"onion")]
    )
    assert [parse_datagram(packet) for packet in arrived.to_control] == [
        UdpDatagram(PEER, OWN, SIGNALLING_PORT, SIGNALLING_PORT, b"onion")
    ]


def test_esp_that_the_kernel_left_is_counted_and_goes_nowhere():
    path, sockets = make()
    arrived = path.from_network([(b"\1" * 7, Endpoint("192.0.2.1", 4500))], NOW)
    assert arrived.to_control == []
    assert path.counters() == {"stray ESP": 1}
    assert not any(each.sent for each in sockets.values())
