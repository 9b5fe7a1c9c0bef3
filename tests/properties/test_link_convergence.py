"""Two Links cores over a network that loses, delays, reorders, repeats and invents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.identity import LocalIdentity
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkFailed,
    LinkPeer,
    LinkSaRemoved,
    LinkSaRetired,
)
from overlay.link.links import Links
from overlay.link.settings import LinkSettings
from sims.world.engine.conditions import Flight, corrupt, delay, drop, duplicate
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.latency import Constant

NOW = 1_800_000_000.0
HARDSHIP_S = 40.0
SETTINGS = LinkSettings(rekey_after_s=60.0)
IDENTITIES = [LocalIdentity.generate(Random(number)) for number in range(2)]
ENDPOINTS = [Endpoint("8.8.8.8", 4500), Endpoint("9.9.9.9", 4500)]
OBSERVER = Endpoint("6.6.6.6", 666)
"""It sends copies of what it sees; what is sent to it leads nowhere."""


class Node:
    """A core, and a strict reader of its events."""

    def __init__(self, world: World, number: int, seed: int, spis: count) -> None:
        self.world, self.index, self.endpoint = world, number, ENDPOINTS[number]
        self.number = number
        self.used: set[int] = set()
        self.spis = spis
        self.links = Links(
            IDENTITIES[number], "lab", SETTINGS, Random(seed), self.allocate, self.used.remove
        )
        self.open = False
        self.ended = 0
        self.pairs: dict[int, LinkEstablished] = {}
        self.using: LinkEstablished | None = None

    def arrived(self, item: tuple[bytes, Endpoint]) -> None:
        self.links.receive([item], self.world.now)
        self.world.settle()

    def next_deadline(self) -> float:
        return self.links.next_deadline()

    def handle_deadline(self, now: float) -> None:
        self.links.handle_deadline(now)
        self.world.settle()

    def allocate(self) -> int:
        spi = next(self.spis)
        self.used.add(spi)
        return spi

    def read_events(self) -> None:
        for event in self.links.events():
            assert event.overlay_address == IDENTITIES[1 - self.number].overlay_address
            if isinstance(event, LinkEstablished):
                known = self.pairs.get(event.keys.inbound_spi)
                assert event.rekeyed == (known.rekeyed if known else self.open)
                assert known is None or (event.keys == known.keys and event.usable)
                self.open = True
                self.pairs[event.keys.inbound_spi] = event
                if event.usable:
                    assert event.endpoint != OBSERVER
                    self.using = event
            elif isinstance(event, LinkSaRetired):
                assert event.inbound_spi in self.pairs
                assert self.using is None or self.using.keys.inbound_spi != event.inbound_spi
            elif isinstance(event, LinkSaRemoved):
                del self.pairs[event.inbound_spi]
                assert self.pairs
                if self.using is not None and self.using.keys.inbound_spi == event.inbound_spi:
                    self.using = None
            elif isinstance(event, LinkClosed):
                assert self.open
                assert self.pairs
                self.open, self.using = False, None
                self.pairs.clear()
                self.ended += 1
            else:
                assert isinstance(event, LinkFailed)
                assert not self.open
                self.ended += 1


class World:
    """Two nodes and the network between them, whose hardship may change while it runs."""

    def __init__(
        self, seed: int, loss: float, delay_s: float, repeat: float, copy: float = 0.0
    ) -> None:
        self.rng = Random(seed)
        self.loss, self.delay_s, self.repeat, self.copy = loss, delay_s, repeat, copy
        self.heap = EventHeap(NOW)
        self.network = Network(self.heap, Constant(0.01), Random(seed))
        self.forge = corrupt(self.rng)
        self.network.impose(duplicate(lambda _: self.rng.random() < self.repeat))
        self.network.impose(drop(lambda _: self.rng.random() < self.loss))
        self.network.impose(delay(lambda: self.rng.random() * self.delay_s))
        self.network.impose(self.observed)
        spis = count(1000)
        self.nodes = [Node(self, number, seed + number, spis) for number in range(2)]
        for node in self.nodes:
            self.network.attach(node)
        self.calm = False

    @property
    def now(self) -> float:
        return self.heap.now

    def observed(self, flight: Flight) -> Iterable[Flight]:
        """Let an observer's copy arrive before a datagram, and a forged one after it."""
        if self.rng.random() < self.copy:
            yield replace(flight, source=OBSERVER)
        yield flight
        if self.rng.random() < self.repeat:
            yield from self.forge(flight)

    def pump(self) -> None:
        for node in self.nodes:
            node.read_events()
            for data, endpoint in node.links.datagrams_to_send(self.now):
                assert endpoint in {OBSERVER, ENDPOINTS[1 - node.number]}
                self.network.carry(data, node.endpoint, endpoint)

    def settle(self) -> None:
        self.pump()
        if self.calm:
            self.check_that_each_hears_the_other()

    def check_that_each_hears_the_other(self) -> None:
        """Whatever pair a node sends on, the other one still has it installed."""
        for node, other in (self.nodes, self.nodes[::-1]):
            if node.using is not None:
                assert node.using.keys.outbound_spi in other.pairs

    def run(self, until: float) -> None:
        self.pump()
        run_with_deadlines(self.heap, until, lambda: self.nodes)

    def act(self, node: int, verb: str) -> None:
        other = 1 - node
        links = self.nodes[node].links
        address = IDENTITIES[other].overlay_address
        if verb == "connect":
            links.connect(LinkPeer(address, IDENTITIES[other].link_key, ENDPOINTS[other]), self.now)
        elif verb == "rekey":
            links.rekey(address, self.now)
        elif verb == "close":
            links.close(address, self.now)
        else:
            fresh = Node(self, node, self.rng.randrange(2**32), self.nodes[node].spis)
            self.nodes[node] = fresh
            self.network.attach(fresh)


ACTIONS = st.lists(
    st.tuples(
        st.floats(0, HARDSHIP_S),
        st.integers(0, 1),
        st.sampled_from(["connect", "connect", "rekey", "rekey", "close", "restart"]),
    ),
    max_size=12,
)


def heal_and_check(world: World) -> None:
    world.loss = world.repeat = 0.0  # the observer goes on
    world.delay_s = 0.02
    end = world.now
    for _ in range(2):
        end += 80.0
        for number in range(2):
            world.act(number, "connect")
        world.run(end)
    for number in range(2):
        world.act(number, "connect")
    world.run(end + 5.0)
    while len(world.heap):  # a rekeying may be under way
        world.run(world.now + 0.1)
    one, two = (node.using for node in world.nodes)
    assert one is not None
    assert two is not None
    assert one.keys.suite == two.keys.suite
    assert one.keys.inbound_keymat == two.keys.outbound_keymat
    assert one.keys.outbound_keymat == two.keys.inbound_keymat
    assert (one.keys.inbound_spi, one.keys.outbound_spi) == (
        two.keys.outbound_spi,
        two.keys.inbound_spi,
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.2, 0.5]),
    delay_s=st.sampled_from([0.0, 0.2, 2.0]),
    repeat=st.sampled_from([0.0, 0.4]),
    copy=st.sampled_from([0.0, 0.5, 1.0]),
    actions=ACTIONS,
)
def test_two_nodes_agree_again_whatever_the_network_did(seed, loss, delay_s, repeat, copy, actions):
    world = World(seed, loss, delay_s, repeat, copy)
    for at, node, verb in sorted(actions):
        world.run(NOW + at)
        world.act(node, verb)
        world.pump()
    world.run(NOW + HARDSHIP_S)
    heal_and_check(world)
    for node in world.nodes:
        node.links.close_all(world.now)
        node.read_events()
        assert node.used == set()
        assert not node.open


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    delay_s=st.sampled_from([0.0, 0.2, 1.0]),
    apart_s=st.floats(0, 0.5),
    first=st.integers(0, 1),
    copy=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_crossing_initiations_agree_without_any_loss_of_the_link(
    seed, delay_s, apart_s, first, copy
):
    world = World(seed, 0.0, delay_s, 0.2, copy)
    world.calm = True
    world.act(first, "connect")
    world.run(NOW + apart_s)
    world.act(1 - first, "connect")
    world.run(NOW + 25.0)
    for number in (first, 1 - first):
        world.act(number, "rekey")
        world.run(world.now + apart_s)
    world.run(NOW + 28.0)
    heal_and_check(world)
    assert [node.ended for node in world.nodes] == [0, 0]
