"""One port, two queues: the kernel sorts what comes in."""

import contextlib
import socket
from random import Random

import pytest
import trio

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.ipsec.spi_mark import SpiMark
from overlay.system.udp import UdpPort, UdpSocket, bound_socket

MARK = SpiMark.draw(Random(1))
MARKED = MARK.draw_spi(Random(2)).to_bytes(4, "big")
ESP = MARKED + bytes(60)
OTHERS = [
    bytes(4) + b"\x01dht",
    bytes(4) + b"\x02link",
    (0x12345678).to_bytes(4, "big") + bytes(60),  # ESP of no link of ours
    b"\xff",
    b"",
    MARKED,
    MARKED + b"abc",  # too short for ESP
    bytes(1400),
]
LOCAL = pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])


def sender(port):
    """A socket that sends to the port over loopback."""
    local = port.esp.local
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(local.host, local.host)
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((host, local.port))
    return contextlib.closing(made)


def payloads(batch):
    return [datagram for datagram, _ in batch]


@LOCAL
def test_esp_of_our_links_and_everything_else_wait_in_queues_of_their_own(host):
    with UdpPort(Endpoint(host, 0), MARK) as port:
        for _ in range(20):  # from other ports, or a hash could give the same answer
            with sender(port) as client:
                for other in OTHERS:
                    client.send(other)
                client.send(ESP)
                assert payloads(port.esp.read_batch()) == [ESP]
                assert payloads(port.control.read_batch()) == OTHERS


def test_a_flood_that_fills_one_queue_takes_no_place_in_the_other():
    with UdpPort(Endpoint("127.0.0.1", 0), MARK) as port, sender(port) as client:
        for _ in range(30_000):
            client.send(OTHERS[0])
        client.send(ESP)
        assert payloads(port.esp.read_batch()) == [ESP]
        kept = len(port.control.read_batch(100_000))
        assert 500 < kept < 30_000
        assert port.control.queue_drops == 30_000 - kept
        assert port.esp.queue_drops == 0


@LOCAL
def test_a_second_node_is_told_that_the_port_is_taken(host):
    with UdpPort(Endpoint(host, 0), MARK) as port:
        for attempt in (
            lambda: UdpPort(port.esp.local, MARK),
            lambda: bound_socket(port.esp.local),
        ):
            with pytest.raises(BackendError, match="another program has this port"):
                attempt()
        local = port.esp.local
    with UdpPort(local, MARK) as again:  # free after the end of both sockets
        assert again.control is not None


def test_a_bound_stops_reading_and_the_rest_is_there_afterwards():
    with UdpPort(Endpoint("127.0.0.1", 0), MARK) as port, sender(port) as client:
        sent = [bytes(4) + index.to_bytes(2, "big") for index in range(300)]
        for each in sent:
            client.send(each)
        first = port.control.read_batch(128)
        assert payloads(first) == sent[:128]
        assert payloads(port.control.read_batch()) == sent[128:]
        assert port.control.read_batch() == []


def test_a_kernel_that_cannot_split_the_port_leaves_one_queue_for_all(monkeypatch):
    monkeypatch.setattr("overlay.system.udp.split_port", lambda *_: None)
    with UdpPort(Endpoint("127.0.0.1", 0), MARK) as port, sender(port) as client:
        client.send(OTHERS[0])
        client.send(ESP)
        assert port.control is None
        assert payloads(port.esp.read_batch()) == [OTHERS[0], ESP]


def test_closing_wakes_the_readers_of_both_queues():
    async def scenario():
        ended = []

        async def read(each):
            with contextlib.suppress(trio.ClosedResourceError):
                await each.receive_batch()
            ended.append(each)

        port = UdpPort(Endpoint("127.0.0.1", 0), MARK)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for each in port.sockets:
                    nursery.start_soon(read, each)
                await trio.testing.wait_all_tasks_blocked()
                port.close()
        assert len(ended) == 2

    trio.run(scenario)


def test_a_read_of_the_control_queue_returns_no_more_datagrams_than_it_was_asked_for():
    local = Endpoint("127.0.0.1", 0)
    with UdpPort(local, MARK) as port, UdpSocket.open(local) as client:
        assert client.segments_sent
        client.send_batch([(bytes(250), port.esp.local)] * 256)
        assert len(port.control.read_batch(16)) == 16
