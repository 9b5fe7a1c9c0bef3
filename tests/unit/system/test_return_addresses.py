"""A socket on a wildcard answers from the address that was asked, one by one and in runs."""

import socket

import trio

from overlay.addresses import Endpoint
from overlay.system.return_addresses import ReturnAddresses
from overlay.system.udp import UdpSocket, bound_socket

ONE, TWO, THREE = (bytes([127, 0, 0, last]) for last in (1, 2, 3))
PEER = Endpoint("198.51.100.7", 4500)


def test_answers_leave_from_where_they_were_asked_also_in_runs():
    async def scenario():
        addresses = ReturnAddresses(4)
        with (
            UdpSocket(bound_socket(Endpoint("0.0.0.0", 0)), addresses=addresses) as node,
            UdpSocket.open(Endpoint("127.0.0.1", 0)) as asking,
        ):
            addresses.follow({ONE, TWO}, None)
            node.follow_addresses()
            asked = Endpoint("127.0.0.2", node.local.port)
            for question in ([b"alone"], [bytes([n]) * 900 for n in range(8)]):
                asking.send_batch([(each, asked) for each in question])
                with trio.fail_after(5):
                    received = await node.receive_batch()
                    assert [data for data, _ in received] == question
                    node.send_batch(received)
                    answers = await asking.receive_batch()
                assert answers == [(each, asked) for each in question]
            addresses.follow({ONE}, None)
            node.follow_addresses()
            asking.send_batch([(b"again", asked)])
            with trio.fail_after(5):
                node.send_batch(await node.receive_batch())
                assert await asking.receive_batch() == [
                    (b"again", Endpoint("127.0.0.1", asked.port))
                ], "with one address the routes decide"

    trio.run(scenario)


def test_an_address_that_is_gone_costs_one_datagram():
    addresses = ReturnAddresses(4)
    with UdpSocket(bound_socket(Endpoint("0.0.0.0", 0)), addresses=addresses) as node:
        gone = bytes([203, 0, 113, 77])
        addresses.follow({ONE, gone}, None)
        addresses.learn(node.local._replace(host="127.0.0.1"), gone)
        there = Endpoint("127.0.0.1", node.local.port)
        node.send_batch([(b"x", there)])
        node.send_batch([(b"x", there)])
        assert node.counters == {"dropped_ENETUNREACH": 1, "sent": 1}


def test_peers_that_have_not_written_get_the_usual_address():
    addresses = ReturnAddresses(4)
    addresses.follow({ONE, TWO, THREE}, TWO)
    assert addresses.towards(PEER) == TWO
    addresses.learn(PEER, THREE)
    assert addresses.towards(PEER) == THREE
    addresses.follow({ONE, TWO}, TWO)
    assert addresses.towards(PEER) == TWO, "the host has lost the address"
    addresses.learn(PEER, THREE)
    assert addresses.towards(PEER) == TWO, "not an address of this host"
    addresses.follow({ONE}, TWO)
    assert (addresses.towards(PEER), addresses.control(PEER)) == (None, [])


def test_peers_that_asked_elsewhere_are_bounded():
    addresses = ReturnAddresses(6)
    own = [socket.inet_pton(socket.AF_INET6, f"2001:db8::{n}") for n in (1, 2)]
    addresses.follow(own, own[0])
    peers = [Endpoint(f"2001:db8:1::{n:x}", 4500) for n in range(8193)]
    for peer in peers:
        addresses.learn(peer, own[1])
    assert addresses.towards(peers[0]) == own[0], "the first learned is forgotten first"
    assert {addresses.towards(peer) for peer in peers[1:]} == {own[1]}
