"""One port, two queues: the kernel sorts what comes in."""

import contextlib
import socket
from dataclasses import replace
from random import Random

import pytest
import trio

from overlay.addresses import Endpoint, NodeId
from overlay.demultiplexer import Channel, frame
from overlay.dht.envelope import Envelopes, network_tag
from overlay.dht.messages import Ping
from overlay.errors import BackendError
from overlay.identity import LocalIdentity
from overlay.link.handshake import GEOMETRY, MESSAGE_BYTES, MessageType, header
from overlay.node.shells.port_forms import Marks, port_forms
from overlay.system.port_program import Suspect
from overlay.system.udp import UdpPort, UdpSocket, bound_socket

NETWORK_ID = "laboratory"
MARKS = Marks.draw(Random(1))
FORMS = port_forms(NETWORK_ID, MARKS)
MARKED = MARKS.link_spis.draw_spi(Random(2)).to_bytes(4, "big")
ESP = MARKED + bytes(60)
ENVELOPES = Envelopes(LocalIdentity.generate(Random(3)), NETWORK_ID)


def link(kind, number):
    """A message of the link channel whose MACs fit nothing."""
    opening = header(kind, number)
    return frame(Channel.LINK, opening.ljust(MESSAGE_BYTES[opening[:2]], b"x"))


def request(cookie, responder=None, host="127.0.0.1", port=4500):
    return frame(
        Channel.DHT,
        ENVELOPES.request(
            Ping(),
            request_id=bytes(12),
            responder=responder,
            sent_to=Endpoint(host, port),
            cookie=cookie,
        ),
    )


def challenge(number):
    return frame(Channel.DHT, ENVELOPES.challenge(number.to_bytes(4, "big") + bytes(8), bytes(16)))


SPI, NUMBER = MARKS.link_spis.draw_spi(Random(4)), MARKS.numbers.draw_spi(Random(5))
EXPECTED = [
    link(MessageType.RESPONSE, NUMBER),
    link(MessageType.COOKIE_REPLY, NUMBER),
    *(link(kind, SPI) for kind in MessageType if kind >= MessageType.CONFIRM),
    challenge(NUMBER),
]
INITIATION = link(MessageType.INITIATION, 7)
WAYS = [
    (responder, host, port)
    for responder in (None, NodeId(bytes(20)))
    for host in ("127.0.0.1", "2001:db8::1")
    for port in (17, 127, 128, 203, 204, 205, 255, 256, 4500, 65535)
]
RETURNING = [INITIATION, *(request(bytes(16), *way) for way in WAYS)]
STRANGERS = [
    INITIATION[: -GEOMETRY.mac] + bytes(GEOMETRY.mac),  # without mac2
    *(request(b"", *way) for way in WAYS),
]
GARBAGE = [
    (0x12345678).to_bytes(4, "big") + bytes(60),  # ESP of no link of ours
    b"\xff",
    b"",
    MARKED,
    MARKED + b"abc",  # too short for ESP
    bytes(1400),
    bytes(4) + b"\x01dht",
    bytes(4) + b"\x02link",
    link(MessageType.INITIATION, 7) + b"x",
    link(MessageType.INITIATION, 7)[:-1],
    link(MessageType.RESPONSE, SPI),
    link(MessageType.CLOSE, NUMBER),
    frame(Channel.LINK, bytes((9, 1)) + bytes(46)),
    challenge(SPI),
    request(b"").replace(network_tag(NETWORK_ID), network_tag("another")),
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
def test_esp_answers_and_requests_wait_in_queues_of_their_own_and_garbage_in_none(host):
    with UdpPort(Endpoint(host, 0), FORMS) as port:
        for _ in range(20):  # from other ports, or a hash could give the same answer
            with sender(port) as client:
                for each in [*GARBAGE, *STRANGERS, *RETURNING, *EXPECTED, ESP]:
                    client.send(each)
                assert payloads(port.esp.read_batch()) == [ESP]
                assert payloads(port.split.expected.read_batch()) == EXPECTED
                assert payloads(port.split.returning.read_batch()) == RETURNING
                assert payloads(port.split.strangers.read_batch()) == STRANGERS
        assert sum(each.kernel_drops for each in port.sockets) == 20 * len(GARBAGE)


def test_an_aggregate_of_many_kinds_loses_nothing_but_garbage():
    """Equal sizes of one flow stay one message on the way, sorted by the first of them."""
    size = len(link(MessageType.CLOSE, SPI))
    esp, bad = MARKED.ljust(size, b"e"), b"\1\2\3\4".ljust(size, b"g")
    good = link(MessageType.CLOSE, SPI)
    local = Endpoint("127.0.0.1", 0)
    for first, *others in ([good, esp, bad, good], [bad, good, esp], [esp, good, bad]):
        with UdpPort(local, FORMS) as port, UdpSocket.open(local) as client:
            client.send_batch([(each, port.esp.local) for each in (first, *others)])
            read = [each for queue in port.sockets for each in payloads(queue.read_batch())]
            assert [each for each in read if each != bad] == [
                each for each in (first, *others) if each != bad
            ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_doubtful_esp_of_a_link_under_attack_waits_with_requests_without_a_cookie(host):
    def numbered(number):
        return MARKED + (number % 2**32).to_bytes(4, "big") + bytes(60)

    first = 2**32 - 100  # the numbers wrap
    expected = [numbered(first), numbered(first + 100), numbered(first + 999)]
    doubtful = [numbered(first - 1), numbered(first + 1000), numbered(2**31)]
    other = MARKS.link_spis.draw_spi(Random(9)).to_bytes(4, "big") + bytes(60)
    with UdpPort(Endpoint(host, 0), FORMS) as port, sender(port) as peer, sender(port) as else_:
        name = peer.getsockname()
        address = Endpoint(*name[:2]).packed
        suspect = Suspect(int.from_bytes(MARKED, "big"), address, name[1], first, 1000)
        others = [replace(suspect, spi=spi) for spi in range(1000, 1063)]
        port.steer([*others, suspect])
        for each in [*expected, *doubtful, other, EXPECTED[0]]:
            peer.send(each)
        assert payloads(port.esp.read_batch()) == [*expected, other]
        assert payloads(port.split.strangers.read_batch()) == doubtful
        assert payloads(port.split.expected.read_batch()) == EXPECTED[:1]
        for each in [*expected, other]:
            else_.send(each)
        assert payloads(port.esp.read_batch()) == [other]
        assert payloads(port.split.strangers.read_batch()) == expected
        port.steer([replace(suspect, count=None)])
        peer.send(doubtful[0])
        assert payloads(port.esp.read_batch()) == doubtful[:1]
        port.steer([])
        else_.send(expected[0])
        assert payloads(port.esp.read_batch()) == expected[:1]


def test_a_flood_that_fills_one_queue_takes_no_place_in_the_other():
    with UdpPort(Endpoint("127.0.0.1", 0), FORMS) as port, sender(port) as client:
        for _ in range(30_000):
            client.send(STRANGERS[0])
        for each in (EXPECTED[0], RETURNING[0], ESP):
            client.send(each)
        assert payloads(port.esp.read_batch()) == [ESP]
        assert payloads(port.split.expected.read_batch()) == EXPECTED[:1]
        assert payloads(port.split.returning.read_batch()) == RETURNING[:1]
        kept = len(port.split.strangers.read_batch(100_000))
        assert 300 < kept < 30_000
        assert port.split.strangers.kernel_drops == 30_000 - kept
        assert port.esp.kernel_drops == port.split.expected.kernel_drops == 0


@LOCAL
def test_a_second_node_is_told_that_the_port_is_taken(host):
    with UdpPort(Endpoint(host, 0), FORMS) as port:
        for attempt in (
            lambda: UdpPort(port.esp.local, FORMS),
            lambda: bound_socket(port.esp.local),
        ):
            with pytest.raises(BackendError, match="another program has this port"):
                attempt()
        local = port.esp.local
    with UdpPort(local, FORMS) as again:  # free after the end of both sockets
        assert again.split is not None


def test_a_bound_stops_reading_and_the_rest_is_there_afterwards():
    with UdpPort(Endpoint("127.0.0.1", 0), FORMS) as port, sender(port) as client:
        sent = [link(MessageType.INITIATION, index) for index in range(300)]  # with mac2
        for each in sent:
            client.send(each)
        queue = port.split.returning
        first = queue.read_batch(128)
        assert payloads(first) == sent[:128]
        assert payloads(queue.read_batch()) == sent[128:]
        assert queue.read_batch() == []


def test_a_kernel_that_cannot_split_the_port_leaves_one_queue_for_all(monkeypatch):
    monkeypatch.setattr("overlay.system.udp.split_port", lambda *_: None)
    with UdpPort(Endpoint("127.0.0.1", 0), FORMS) as port, sender(port) as client:
        client.send(GARBAGE[0])
        client.send(ESP)
        assert port.split is None
        assert payloads(port.esp.read_batch()) == [GARBAGE[0], ESP]


def test_closing_wakes_the_readers_of_all_queues():
    async def scenario():
        ended = []

        async def read(each):
            with contextlib.suppress(trio.ClosedResourceError):
                await each.receive_batch()
            ended.append(each)

        port = UdpPort(Endpoint("127.0.0.1", 0), FORMS)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for each in port.sockets:
                    nursery.start_soon(read, each)
                await trio.testing.wait_all_tasks_blocked()
                port.close()
        assert len(ended) == 4

    trio.run(scenario)


def test_a_read_of_the_control_queue_returns_no_more_datagrams_than_it_was_asked_for():
    local = Endpoint("127.0.0.1", 0)
    with UdpPort(local, FORMS) as port, UdpSocket.open(local) as client:
        assert client.segments_sent
        client.send_batch([(STRANGERS[0], port.esp.local)] * 256)
        assert len(port.split.strangers.read_batch(16)) == 16
