"""Conditions of lines: what each verb does, where it acts, and for how long."""

from dataclasses import replace
from random import Random
from typing import NamedTuple

import pytest

from overlay.addresses import Endpoint
from sims.world.engine.conditions import (
    corrupt,
    delay,
    drop,
    duplicate,
    partition,
    reorder,
    share,
    tap,
)
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import NOWHERE, Network
from sims.world.latency import Constant

LATENCY_S = 0.5


class Host:
    def __init__(self, network, index):
        self.network, self.index = network, index
        self.endpoint, self.heard = Endpoint(f"11.{index}.0.1", 4500), []
        network.attach(self)

    def arrived(self, item):
        self.heard.append((self.network.heap.now, *item))

    def send(self, datagram, to):
        self.network.carry(datagram, self.endpoint, to.endpoint)


class Three(NamedTuple):
    network: Network
    hosts: list[Host]

    def heard_by_each(self):
        self.network.heap.run(self.network.heap.now + 100.0)
        return [[(when, data) for when, data, _ in host.heard] for host in self.hosts]

    def all_send(self, datagram=b"x"):
        for one in self.hosts:
            for other in self.hosts:
                if one is not other:
                    one.send(datagram, other)


@pytest.fixture
def three():
    network = Network(EventHeap(), Constant(LATENCY_S), Random(1))
    return Three(network, [Host(network, index) for index in range(3)])


def test_drop_loses_the_chosen_datagrams(three):
    alice, bob, _ = three.hosts
    three.network.impose(drop(lambda flight: flight.datagram == b"2"))
    for datagram in (b"1", b"2", b"3"):
        alice.send(datagram, bob)
    assert three.heard_by_each()[1] == [(0.5, b"1"), (0.5, b"3")]
    assert (three.network.sent, three.network.delivered, three.network.lost) == (3, 2, 1)


def test_delay_adds_to_the_latency_and_none_arrives_before_it_was_sent(three):
    alice, bob, carol = three.hosts
    three.network.impose(delay(2.0), receiver=bob)
    three.network.impose(delay(-3.0), receiver=carol)
    alice.send(b"x", bob)
    alice.send(b"x", carol)
    assert three.heard_by_each() == [[], [(2.5, b"x")], [(0.0, b"x")]]


def test_delay_may_be_drawn_for_each_datagram(three):
    alice, bob, _ = three.hosts
    seconds = iter((3.0, 1.0))
    three.network.impose(delay(lambda: next(seconds)))
    alice.send(b"1", bob)
    alice.send(b"2", bob)
    assert three.heard_by_each()[1] == [(1.5, b"2"), (3.5, b"1")]


def test_duplicate_sends_copies(three):
    alice, bob, _ = three.hosts
    three.network.impose(duplicate(lambda flight: flight.datagram == b"1", copies=2))
    alice.send(b"1", bob)
    alice.send(b"2", bob)
    assert three.heard_by_each()[1] == [(0.5, b"1")] * 3 + [(0.5, b"2")]
    assert (three.network.sent, three.network.delivered, three.network.lost) == (2, 4, 0)


def test_reorder_lets_later_datagrams_overtake_the_chosen_ones(three):
    alice, bob, _ = three.hosts
    three.network.impose(reorder(0.1, lambda flight: flight.datagram == b"1"))
    alice.send(b"1", bob)
    alice.send(b"2", bob)
    assert [data for _, data in three.heard_by_each()[1]] == [b"2", b"1"]


def test_corrupt_inverts_one_bit_of_bytes_and_refuses_values(three):
    alice, bob, _ = three.hosts
    three.network.impose(corrupt(Random(1)))
    alice.send(b"hello", bob)
    alice.send(b"", bob)
    heard = sorted(data for _, data in three.heard_by_each()[1])
    assert heard[0] == b""
    differing = int.from_bytes(heard[1], "big") ^ int.from_bytes(b"hello", "big")
    assert differing.bit_count() == 1
    with pytest.raises(TypeError, match="str"):
        alice.send("a value", bob)


def test_partition_drops_what_crosses_it_and_nothing_else(three):
    three.network.impose(partition([[0], [1]]))
    three.all_send()
    assert three.heard_by_each() == [[], [], []]
    three.network.lift()
    three.network.impose(partition([[0, 2]]))
    three.all_send()
    assert [len(heard) for heard in three.heard_by_each()] == [1, 0, 1]


def test_a_condition_acts_on_its_line_and_direction_alone(three):
    alice, bob, _ = three.hosts
    three.network.impose(drop(), sender=alice, receiver=bob)
    three.all_send()
    assert [len(heard) for heard in three.heard_by_each()] == [2, 1, 2]


def test_a_condition_of_both_ways_acts_on_one_line(three):
    alice, bob, _ = three.hosts
    three.network.impose(drop(), sender=alice, receiver=bob, both_ways=True)
    three.all_send()
    assert [len(heard) for heard in three.heard_by_each()] == [1, 1, 2]


def test_a_condition_ends_after_its_time_or_when_it_is_lifted(three):
    alice, bob, _ = three.hosts
    three.network.impose(drop(), for_s=1.0)
    lifted = three.network.impose(duplicate())
    for when in (0.5, 1.5):
        three.network.heap.run(when)
        alice.send(b"x", bob)
    three.network.lift(lifted)
    three.network.lift(lifted)
    alice.send(b"y", bob)
    assert [data for _, data in three.heard_by_each()[1]] == [b"x", b"x", b"y"]


def test_conditions_act_in_the_order_in_which_they_were_imposed(three):
    alice, bob, _ = three.hosts
    numbers = iter(range(10))
    three.network.impose(duplicate(copies=3))
    three.network.impose(drop(lambda _: next(numbers) == 0))
    alice.send(b"x", bob)
    assert len(three.heard_by_each()[1]) == 3, "one copy of four was lost"


def test_a_function_of_a_test_may_redirect_and_forge(three):
    alice, bob, carol = three.hosts

    def observed(flight):
        return flight, replace(flight, to=carol.endpoint, source=bob.endpoint, extra_s=-0.25)

    three.network.impose(observed, sender=alice)
    alice.send(b"x", bob)
    three.network.heap.run(1.0)
    assert carol.heard == [(0.25, b"x", bob.endpoint)]
    assert bob.heard == [(0.5, b"x", alice.endpoint)]


def test_a_tap_sees_also_what_no_host_sends_or_gets(three):
    seen, nowhere = [], Endpoint("99.9.9.9", 9)
    three.network.impose(tap(seen.append))
    three.network.carry(b"x", nowhere, Endpoint("98.9.9.9", 9))
    three.network.carry(b"x", nowhere, three.hosts[1].endpoint)
    assert [(flight.sender, flight.receiver) for flight in seen] == [
        (NOWHERE, NOWHERE),
        (NOWHERE, 1),
    ]
    assert [len(heard) for heard in three.heard_by_each()] == [0, 1, 0]
    assert three.network.lost == 1


def test_a_tap_sees_what_the_network_loses_by_chance():
    network, seen = Network(EventHeap(), Constant(LATENCY_S), Random(1), loss=1.0), []
    alice, bob = Host(network, 0), Host(network, 1)
    network.impose(tap(seen.append))
    alice.send(b"x", bob)
    network.heap.run(1.0)
    assert (len(seen), bob.heard, network.lost) == (1, [], 1)


def test_a_host_may_have_several_addresses_and_lose_one(three):
    alice, bob, _ = three.hosts
    second = Endpoint("12.0.0.1", 4500)
    three.network.attach(bob, second)
    three.network.crash(bob)
    alice.send(b"1", bob)
    three.network.carry(b"2", alice.endpoint, second)
    assert [data for _, data in three.heard_by_each()[1]] == [b"2"]
    assert three.network.host_at(second) is bob
    assert three.network.host_at(bob.endpoint) is None


def test_a_share_is_drawn_from_its_own_generator(three):
    alice, bob, carol = three.hosts
    three.network.impose(drop(share(0.3, Random(5))), receiver=bob)
    for _ in range(2000):
        alice.send(b"x", bob)
        alice.send(b"x", carol)
    _, to_bob, to_carol = three.heard_by_each()
    assert 0.66 < len(to_bob) / 2000 < 0.74
    assert len(to_carol) == 2000
