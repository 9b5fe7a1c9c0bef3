"""An eclipse as somebody would mount it: keys searched until they surround one node.

Mallory's nodes speak the protocol, answer every question about their neighbourhood with each
other, take every record and return none.
"""

import itertools

import pytest
from dht_network import Network, make_identity

from overlay.dht.events import CrawlFinished, EclipseSuspected
from overlay.dht.messages import Contact, contacts_that_fit
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


def corrupt(members):
    """Let these answer with each other alone, and hold back every record."""
    gang = [Contact.of(m.identity.identity_key, m.endpoint) for m in members]
    for member in members:
        responder = member.dht.parts.responder
        responder._contacts = lambda target, asker: contacts_that_fit(
            sorted(
                (c for c in gang if c.node_id != asker.node_id),
                key=lambda c: int.from_bytes(c.node_id) ^ int.from_bytes(target),
            ),
            SETTINGS.k,
        )
        responder._record = lambda key, now: None


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
    sybils = [network.add(number) for number in surrounding(victim, others)]
    corrupt(sybils)
    for sybil in sybils:
        network.bootstrap(sybil, *honest[:3], victim)
        network.run(0.05)
    network.run(5)
    network.do(victim, lambda dht: dht.parts.upkeep.publish(network.now))
    network.run(5)
    assert network.now > before
    return network, victim, others, sybils


@pytest.mark.slow
def test_surrounded_node_suspects_it_and_stores_beyond_those_who_surround_it(attack):
    _network, victim, others, sybils = attack
    assert any(event.own_region for event in victim.of(EclipseSuspected))
    holders = set(victim.dht.parts.publisher.holders)
    assert holders & {sybil.node_id for sybil in sybils}, "the attack is real"
    assert len(holders & {member.node_id for member in others}) >= 2


@pytest.mark.slow
def test_record_of_the_surrounded_node_is_found_by_who_doubts_its_region(attack):
    network, victim, others, _sybils = attack
    reader = others[3]
    network.crash(victim)
    network.do(reader, lambda dht: dht.crawl(network.now))
    network.run(15)
    assert reader.of(CrawlFinished)
    reader.events.clear()
    watch = reader.dht.parts.watch
    watch._suspect(victim.node_id, network.now)
    assert watch.suspects(victim.node_id, network.now)
    network.do(reader, lambda dht: dht.crawl(network.now))
    network.run(15)
    assert victim.node_id in reader.descriptors()
