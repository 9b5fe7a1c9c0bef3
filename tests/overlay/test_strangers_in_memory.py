"""Flood whole nodes from one address: the shares and the budget of the cores are connected."""

from dataclasses import replace
from itertools import count
from random import Random

import overlay_world
import pytest
from overlay_world import World

from overlay.addresses import Endpoint
from overlay.demultiplexer import Channel, frame
from overlay.identity import LocalIdentity
from overlay.link.events import LinkPeer
from overlay.link.links import Links
from overlay.link.settings import LinkSettings
from overlay.paths.requested_path import PathState
from sims.world.engine.network import NOWHERE

ADDRESS = "77.1.2.66"


class Stranger:
    """One identity at one port of the address; it opens a link to a node and keeps it."""

    index = NOWHERE

    def __init__(self, world, endpoint, links):
        self.world, self.endpoint, self.links = world, endpoint, links
        world.network.attach(self)

    def connect(self, peer):
        self.links.connect(peer, self.world.now)
        self._send()

    def arrived(self, item):
        datagram, source = item
        if datagram[:5] == frame(Channel.LINK, b"x")[:5]:
            self.links.receive([(datagram[5:], source)], self.world.now)
            self._send()

    def _send(self):
        for data, to in self.links.datagrams_to_send(self.world.now):
            self.world.network.carry(frame(Channel.LINK, data), self.endpoint, to)


class Strangers:
    """Ever new identities at one address that open links to one node and keep them."""

    def __init__(self, world, target):
        self.world, self.target = world, target
        self.ports, self.rng = count(1024), Random(7)
        self.spis = count(10_000)

    def open_links(self, number):
        identity = self.target.identity
        peer = LinkPeer(identity.overlay_address, identity.link_key, self.target.endpoint)
        for _ in range(number):
            links = Links(
                LocalIdentity.generate(self.rng),
                self.target.configuration.network.network_id,
                LinkSettings(),
                self.rng,
                lambda: next(self.spis),
                lambda _: None,
            )
            Stranger(self.world, Endpoint(ADDRESS, next(self.ports)), links).connect(peer)


@pytest.mark.slow
def test_links_of_one_address_leave_room_for_circuits_of_others():
    world = World(4)
    world.join_all()
    relay = world.all[2]
    before = len(relay.cores.links)
    strangers = Strangers(world, relay)
    for _ in range(12):
        strangers.open_links(15)
        world.run(1)
    taken = len(relay.cores.links) - before
    most = LinkSettings().max_accepted_links // 9
    assert 30 <= taken <= most + 2
    path = world.all[0].request("203.0.113.10/32")
    assert world.run(30, until=lambda: path.settled)
    assert path.state is PathState.OPEN, path.error


@pytest.mark.parametrize(("percent", "few"), [(1, True), (100, False)])
def test_the_configured_cpu_time_limits_answers_to_unauthenticated_senders(
    percent, few, monkeypatch
):
    made = overlay_world.configuration

    def slow(*, exits):
        given = made(exits=exits)
        return replace(given, network=replace(given.network, unauthenticated_cpu_percent=percent))

    monkeypatch.setattr(overlay_world, "configuration", slow)
    world = World(1)
    [node] = world.all
    strangers = Strangers(world, node)
    strangers.open_links(40)
    world.run(0.4)
    assert (len(node.cores.links) <= 8) == few
