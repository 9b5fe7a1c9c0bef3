"""Whole overlays in memory: joining, crawling, hardship and leaving."""

from dataclasses import replace

import pytest
from dht_network import (
    QUICK,
    Network,
    grown,
    make_descriptor,
    public_endpoint,
)

from overlay.dht.envelope import UnverifiedRequest, network_tag, parse_datagram
from overlay.dht.events import (
    BootstrapUnreachable,
    CrawlFinished,
    DhtCount,
    Joined,
    NodeLeft,
)
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import (
    Store,
)
from overlay.dht.settings import DhtSettings


def is_store(data):
    message = parse_datagram(data, network_tag("test-net"))
    return isinstance(message, UnverifiedRequest) and isinstance(message.request, Store)


def others(member, members):
    return {other.node_id for other in members if other is not member}


@pytest.mark.slow
def test_thirty_nodes_join_through_one_peer_and_all_know_all_descriptors():
    _network, members = grown(30, settings=QUICK, run=12)
    for member in members:
        assert set(member.descriptors()) == others(member, members)
        assert len(member.of(Joined)) == 1
        assert member.of(CrawlFinished)[-1].descriptors == 29
        assert member.dht.contact_count >= QUICK.k
    assert sum(DhtInspection(member.dht).record_count for member in members) >= 29
    assert not any(member.dht.counters().get(DhtCount.MALFORMED) for member in members)


@pytest.mark.slow
def test_a_tenth_of_all_datagrams_lost_hides_no_node():
    _network, members = grown(12, settings=QUICK, loss=0.1, run=25)
    for member in members:
        assert set(member.descriptors()) == others(member, members)


@pytest.mark.slow
def test_departed_nodes_leave_a_new_node_able_to_find_every_living_one():
    network, members = grown(13, settings=QUICK, run=5)
    dead = members[1::3]
    assert len(dead) >= 0.3 * len(members)
    for member in dead:
        network.crash(member)
    newcomer = network.add(100)
    network.bootstrap(newcomer, members[0])
    network.run(20)
    living = {m.node_id for m in members} - {m.node_id for m in dead}
    assert living <= set(newcomer.descriptors())


@pytest.mark.slow
def test_descriptor_of_a_silent_node_comes_from_its_holders():
    network, members = grown(6, settings=QUICK, run=70)  # the second publication is through
    network.crash(members[3])
    newcomer = network.add(100)
    network.bootstrap(newcomer, members[0])
    network.run(8)
    assert members[3].node_id in newcomer.descriptors()


@pytest.mark.slow
def test_restart_by_seeds_needs_no_bootstrap_peer():
    network, members = grown(8, settings=QUICK, run=3)
    known = [make_descriptor(m.identity, m.endpoint) for m in members]
    for gone in members[:3]:
        network.crash(gone)
    newcomer = network.add(100)
    network.do(newcomer, lambda dht: dht.seed(known, network.now))
    network.run(15)
    assert newcomer.of(Joined)
    assert {m.node_id for m in members[3:]} <= set(newcomer.descriptors())
    assert not newcomer.of(BootstrapUnreachable)


def test_unreachable_bootstrap_is_reported_once_a_round_and_retried_until_it_answers():
    network = Network(settings=QUICK)
    newcomer = network.add(1)
    peer = public_endpoint(0)
    network.do(newcomer, lambda dht: dht.bootstrap([peer], network.now))
    network.run(2)
    assert newcomer.of(BootstrapUnreachable) == [BootstrapUnreachable(peer)]
    network.run(30)
    rounds = len(newcomer.of(BootstrapUnreachable))
    assert 3 <= rounds <= 10
    network.add(0)
    network.run(70)
    assert newcomer.of(Joined)
    assert len(newcomer.of(BootstrapUnreachable)) <= rounds + 2


@pytest.mark.slow
def test_an_unknown_node_that_comes_first_does_not_keep_a_node_from_its_bootstrap_peers():
    network = Network(settings=QUICK)
    victim, mallory = network.add(2), network.add(3)
    network.do(victim, lambda dht: dht.bootstrap([public_endpoint(0)], network.now))
    network.bootstrap(mallory, victim)
    network.run(10)
    assert victim.of(Joined)
    peer, other = network.add(0), network.add(1)
    network.bootstrap(other, peer)
    network.run(70)
    assert {peer.node_id, other.node_id} <= set(victim.descriptors())
    greetings = len(victim.of(BootstrapUnreachable))
    assert greetings
    network.run(200)
    assert len(victim.of(BootstrapUnreachable)) == greetings


@pytest.mark.slow
def test_leave_removes_contact_and_record_and_tells_the_owner():
    network, members = grown(6, settings=QUICK, run=20)
    leaver, *rest = members
    network.do(leaver, lambda dht: dht.leave(network.now))
    network.run(3)
    assert leaver.dht.calls_in_flight == 0
    assert leaver.dht.next_deadline() == float("inf")
    for member in rest:
        assert member.of(NodeLeft) == [NodeLeft(leaver.node_id)]
        assert member.dht.contact_count == 4
        member.events.clear()
    for member in rest:
        network.do(member, lambda dht: dht.crawl(network.now))
    network.run(5)
    for member in rest:
        assert leaver.node_id not in member.descriptors()
        assert set(member.descriptors()) == others(member, rest)


def test_node_that_left_is_welcome_again_with_a_later_descriptor():
    network, members = grown(4, settings=QUICK, run=3)
    network.do(members[2], lambda dht: dht.leave(network.now))
    network.run(3)
    network.crash(members[2])
    returned = network.add(2, seed=1, sequence=2)
    network.bootstrap(returned, members[0])
    network.run(3)
    members[1].events.clear()
    network.do(members[1], lambda dht: dht.crawl(network.now))
    network.run(3)
    assert members[1].descriptors()[returned.node_id].sequence == 2


def test_node_that_loses_its_last_contact_joins_again_when_the_peer_returns():
    network = Network(settings=QUICK)
    first, second = network.add(0), network.add(1)
    network.bootstrap(second, first)
    network.run(3)
    assert len(second.of(Joined)) == 1
    network.crash(first)
    network.run(60)
    assert second.dht.contact_count == 0
    network.add(0, seed=1)
    network.run(90)
    assert second.dht.contact_count == 1
    assert len(second.of(Joined)) == 2


def test_storage_drops_at_signed_expiry_whatever_is_republished():
    network = Network(settings=DhtSettings(k=8, republish_interval_s=10.0))
    first = network.add(0)
    second = network.add(1, lifetime=30)
    network.record_traffic = True
    network.bootstrap(second, first)
    network.run(25)
    stored = [data for _, data, source, _ in network.traffic
              if source == second.endpoint and is_store(data)]  # fmt: skip
    assert 3 <= len(stored) <= 6  # at the join, and about every ten seconds
    first.events.clear()
    network.do(first, lambda dht: dht.crawl(network.now))
    network.run(2)
    assert set(first.descriptors()) == {second.node_id}
    network.run(5)
    first.events.clear()
    network.do(first, lambda dht: dht.crawl(network.now))
    network.run(3)
    assert first.of(CrawlFinished)
    assert not first.descriptors()


@pytest.mark.slow
def test_quiet_overlay_stays_quiet():
    network, _members = grown(4, settings=DhtSettings(), run=600)
    network.sent_from.clear()
    network.run(600)
    # A crawl or two of three nodes (9 requests, 9 replies each) and few refreshes, per node.
    assert 0 < sum(network.sent_from.values()) < 4 * 100


@pytest.mark.slow
def test_a_crawl_that_took_many_queries_is_followed_by_a_longer_pause():
    crawls = {}
    for rate in (20.0, 0.1):
        network, members = grown(6, settings=replace(QUICK, crawl_queries_per_s=rate), run=200)
        members[0].events.clear()
        network.run(300)
        crawls[rate] = len(members[0].of(CrawlFinished))
    # Every 60 s, give or take 20 %; and 15 queries at 0.1 a second are 150 s.
    assert 4 <= crawls[20.0] <= 6
    assert 1 <= crawls[0.1] <= 2
