import errno

import pytest
import trio

from lab.reading import UDP
from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.system.local_address import local_address_towards, own_addresses
from overlay.system.udp import UdpSocket


async def _receive(socket, count):
    received = []
    with trio.fail_after(5):
        while len(received) < count:
            received += await socket.receive_batch()
    return received


def _seen(capture):
    return [packet.length for packet in capture.packets() if packet.protocol == UDP]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_batch_of_200_datagrams_arrives_complete_and_in_order(underlay, tmp_path, family):
    alice, mix = underlay.add_host("alice"), underlay.add_host("mix")
    batch = [index.to_bytes(4, "big") * 350 for index in range(200)]
    with (
        alice.namespace.call(
            lambda: UdpSocket.open(Endpoint(str(getattr(alice, family).ip), 4500))
        ) as sender,
        mix.namespace.call(
            lambda: UdpSocket.open(Endpoint(str(getattr(mix, family).ip), 4501))
        ) as receiver,
    ):

        async def scenario():
            sender.send_batch([(datagram, receiver.local) for datagram in batch])
            return await _receive(receiver, len(batch))

        with mix.capture(tmp_path / "mix.pcap") as capture:
            received = trio.run(scenario)
        assert [datagram for datagram, _ in received] == batch
        assert {origin for _, origin in received} == {sender.local}
        assert sender.counters == {"sent": 200}
        assert receiver.counters == {"received": 200}
        # 200 datagrams in 5 runs of at most 64 segments and 65,000 bytes: GSO was at work.
        assert len(_seen(capture)) == 5


def test_the_wire_underlay_shows_each_datagram_by_itself(wire_underlay, tmp_path):
    alice, mix = wire_underlay.add_host("alice"), wire_underlay.add_host("mix")
    with (
        alice.namespace.call(lambda: UdpSocket.open(Endpoint(str(alice.ipv4.ip), 4500))) as sender,
        mix.namespace.call(lambda: UdpSocket.open(Endpoint(str(mix.ipv4.ip), 4501))) as receiver,
    ):

        async def scenario():
            sender.send_batch([(bytes(1200), receiver.local)] * 64)
            return await _receive(receiver, 64)

        with mix.capture(tmp_path / "mix.pcap") as capture:
            assert len(trio.run(scenario)) == 64
    assert _seen(capture) == [1228] * 64


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_datagrams_above_the_mtu_arrive_in_fragments(underlay, family):
    alice, mix = underlay.add_host("alice"), underlay.add_host("mix")
    with (
        alice.namespace.call(
            lambda: UdpSocket.open(Endpoint(str(getattr(alice, family).ip), 4500))
        ) as sender,
        mix.namespace.call(
            lambda: UdpSocket.open(Endpoint(str(getattr(mix, family).ip), 4501))
        ) as receiver,
    ):

        async def scenario():
            sender.send_batch([(bytes(1600), receiver.local)] * 10)
            return await _receive(receiver, 10)

        assert [len(datagram) for datagram, _ in trio.run(scenario)] == [1600] * 10


def test_an_unreachable_destination_is_counted_and_harms_no_other(namespace):
    with namespace.call(lambda: UdpSocket.open(Endpoint("127.0.0.1", 0))) as socket:

        async def scenario():
            nowhere = Endpoint("198.51.100.1", 9)
            socket.send_batch([(b"a", nowhere), (b"b", socket.local), (b"c", nowhere)])
            return await _receive(socket, 1)

        assert [datagram for datagram, _ in trio.run(scenario)] == [b"b"]
        dropped = {name: n for name, n in socket.counters.items() if name.startswith("dropped")}
        assert sum(dropped.values()) == 2
        assert set(dropped) <= {f"dropped_{errno.errorcode[e]}" for e in (101, 22)}


def test_a_full_buffer_drops_and_counts(underlay):
    alice, mix = underlay.add_host("alice"), underlay.add_host("mix")
    # A queue that lets nothing through holds the packets, so the send buffer fills up.
    alice.namespace.run(
        ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8bit", "burst", "2k",
         "limit", "100m"]
    )  # fmt: skip
    with alice.namespace.call(lambda: UdpSocket.open(Endpoint(str(alice.ipv4.ip), 0))) as socket:
        total = 40_000
        socket.send_batch([(bytes(1000), Endpoint(str(mix.ipv4.ip), 9))] * total)
        assert socket.counters["dropped_buffer_full"] > 0
        assert socket.counters["sent"] + socket.counters["dropped_buffer_full"] == total


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (Endpoint("192.0.2.77", 4500), "this host has no such address"),
        (Endpoint("2001:db8::77", 4500), "this host has no such address"),
    ],
)
def test_binding_to_a_foreign_address_says_what_to_do(namespace, endpoint, sentence):
    with pytest.raises(BackendError, match=sentence):
        namespace.call(lambda: UdpSocket.open(endpoint))


def test_the_local_address_towards_a_peer_is_the_one_of_its_route(underlay):
    alice, bob = underlay.add_host("alice"), underlay.add_server("bob")
    for family in ("ipv4", "ipv6"):
        peer = Endpoint(str(getattr(bob, family).ip), 4500)
        found = alice.namespace.call(lambda peer=peer: local_address_towards(peer))
        assert found == getattr(alice, family).ip
    held = alice.namespace.call(own_addresses)
    assert {alice.ipv4.ip.packed, alice.ipv6.ip.packed} <= held
    assert bob.ipv4.ip.packed not in held


def test_no_route_to_a_peer_says_what_to_do(namespace):
    with pytest.raises(BackendError, match="give this host a route"):
        namespace.call(lambda: local_address_towards(Endpoint("192.0.2.1", 4500)))
