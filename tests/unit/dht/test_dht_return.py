"""Coming back after an absence that outlived every descriptor."""

from random import Random

import pytest
from dht_network import START, Network, make_descriptor, make_identity, public_endpoint

from overlay.addresses import Endpoint
from overlay.dht.events import Joined
from overlay.dht.joining import Greeting, Joining
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.dht.topology_store import TopologyStore

A_MONTH = 30 * 86400.0


@pytest.fixture
def path(tmp_path):
    """A topology store as a run of a month ago left it: descriptors of 20 nodes."""
    known = [make_descriptor(make_identity(n), public_endpoint(n)) for n in range(1, 21)]
    with TopologyStore(tmp_path / "topology", "test-net") as store:
        store.save(known, START)
        store.save([], START + 20_000)  # their descriptors expire while the node still runs
    return tmp_path / "topology"


def remembered(path, now):
    with TopologyStore(path, "test-net") as store:
        assert store.load(now).descriptors == ()
        return [Contact.of(hint.identity_key, hint.endpoint) for hint in store.bootstrap_hints()]


def test_node_joins_by_its_last_peers_after_a_month_without_bootstrap(path):
    network = Network()
    network.run(A_MONTH)
    alive = [network.add(number) for number in (3, 11)]  # of twenty
    network.bootstrap(alive[1], alive[0])
    hints = remembered(path, network.now)
    assert len(hints) == 20
    returned = network.add(0)
    network.do(returned, lambda dht: dht.remember(hints, network.now))
    network.run(60)
    assert returned.of(Joined)
    assert {c.node_id for c in returned.dht.parts.table} == {member.node_id for member in alive}


def test_each_round_greets_a_bounded_sample_and_another_one_follows(path):
    network = Network(settings=DhtSettings(seeds_per_round=4))
    network.run(A_MONTH)
    lonely = network.add(0)
    network.record_traffic = True
    network.do(lonely, lambda dht: dht.remember(remembered(path, network.now), network.now))
    assert len(network.traffic) == 4
    network.run(600)
    assert len({destination for *_, destination in network.traffic}) == 20


def test_valid_seeds_come_first_and_hints_get_a_quarter():
    joining = Joining(DhtSettings(seeds_per_round=8), Random(1))
    seeds = [Greeting(public_endpoint(n), b"s") for n in range(100)]
    hints = [Greeting(public_endpoint(n), b"h") for n in range(200, 300)]
    joining.add_seeds(seeds, START)
    joining.add_hints(hints, START)
    chosen = joining.round(START, ())
    assert [greeting.node_id for greeting in chosen] == [b"s"] * 6 + [b"h"] * 2
    joining = Joining(DhtSettings(seeds_per_round=8), Random(1))
    joining.add_seeds(seeds[:3], START)
    joining.add_hints(hints, START)
    assert [g.node_id for g in joining.round(START, ())] == [b"s"] * 3 + [b"h"] * 5


def test_hint_at_a_private_address_is_not_greeted():
    network = Network()
    lonely = network.add(0)
    inside = Contact.of(make_identity(1).identity_key, Endpoint("192.168.1.1", 4500))
    network.do(lonely, lambda dht: dht.remember([inside], network.now))
    network.run(30)
    assert network.sent_from[lonely.endpoint] == 0
