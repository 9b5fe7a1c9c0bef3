"""An eclipse attack with keys that are searched until they surround one node.

Mallory's nodes speak the protocol, answer every question about their neighbourhood with each
other, take every record and return none.
"""

import itertools
from functools import partial

import pytest
from dht_network import Network, make_identity, public_endpoint

from overlay.addresses import NodeId
from overlay.dht.envelope import Envelopes
from overlay.dht.events import CrawlFinished, EclipseSuspected
from overlay.dht.messages import Contact, FindNode, FindRecord, contacts_that_fit
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings

HONEST, SYBILS = 24, 8

SETTINGS = DhtSettings(
    k=5, alpha=4, disjoint_paths=2, crawl_first_interval_s=600.0, crawl_interval_s=600.0
)


def gap(one, other):
    return int.from_bytes(one.node_id) ^ int.from_bytes(other.node_id)


def surrounding(victim, honest):
    """Search identities nearer to the victim than every honest node; about 24 tries each."""
    nearest = min(gap(member.identity, victim.identity) for member in honest)
    candidates = (number for number in itertools.count(5000))
    found = (n for n in candidates if gap(make_identity(n), victim.identity) < nearest)
    return list(itertools.islice(found, SYBILS))


class Colluding(Envelopes):
    """Name only nodes of the same adversary, and hold back every record."""

    def __init__(self, identity, network_id, gang):
        super().__init__(identity, network_id)
        self.gang = gang

    def reply(self, reply, to):
        match to.request:
            case FindNode(target) | FindRecord(target):
                others = (c for c in self.gang if c.node_id != to.sender)
                near = sorted(others, key=lambda c: distance(c.node_id, target))
                return super().reply(contacts_that_fit(near, SETTINGS.k), to)
        return super().reply(reply, to)


@pytest.fixture(scope="module")
def attack():
    network = Network(settings=SETTINGS)
    honest = [network.add(number) for number in range(HONEST)]
    for member in honest[1:]:
        network.bootstrap(member, honest[0])
        network.run(0.05)
    network.run(5)
    victim = honest[7]
    network.do(victim, lambda dht: dht.crawl(network.now))
    network.run(5)
    others = [member for member in honest if member is not victim]
    before = network.now
    numbers = surrounding(victim, others)
    gang = [Contact.of(make_identity(n).identity_key, public_endpoint(n)) for n in numbers]
    sybils = [network.add(n, envelopes=partial(Colluding, gang=gang)) for n in numbers]
    for sybil in sybils:
        network.bootstrap(sybil, *honest[:3], victim)
        network.run(0.05)
    network.run(5)
    network.do(victim, lambda dht: dht.parts.upkeep.publish(network.now))
    network.run(5)
    assert network.now > before
    return network, victim, others, sybils


@pytest.mark.slow
def test_surrounded_node_suspects_it_and_stores_beyond_the_nodes_around_it(attack):
    _network, victim, others, sybils = attack
    assert any(event.own_region for event in victim.of(EclipseSuspected))
    holders = set(victim.dht.parts.publisher.holders)
    assert holders & {sybil.node_id for sybil in sybils}, "the attack is real"
    assert len(holders & {member.node_id for member in others}) >= 2


@pytest.mark.slow
def test_record_of_the_surrounded_node_is_found_by_a_node_that_suspects_its_region(attack):
    network, victim, others, _sybils = attack
    reader = others[3]
    network.crash(victim)
    network.do(reader, lambda dht: dht.crawl(network.now))
    network.run(15)
    assert reader.of(CrawlFinished)
    reader.events.clear()
    watch = reader.dht.parts.watch
    number = int.from_bytes(victim.node_id)
    near = [
        Contact(NodeId((number ^ n).to_bytes(20)), public_endpoint(1), bytes(32))
        for n in range(SETTINGS.k)
    ]
    assert watch.looked_up(victim.node_id, near, network.now) is not None
    assert watch.suspects(victim.node_id, network.now)
    network.do(reader, lambda dht: dht.crawl(network.now))
    network.run(15)
    assert victim.node_id in reader.descriptors()
