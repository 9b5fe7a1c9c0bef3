from __future__ import annotations

import math
from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role, sign_descriptor
from overlay.dht.events import CrawlFinished, DescriptorFound, NodeLeft
from overlay.dht.topology_table import CryptoInfo, Rejection, TopologyTable
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.identity import LocalIdentity

NOW = 1_800_000_000
MIXES = [LocalIdentity.generate(Random(seed)) for seed in range(6)]


def mix(
    n: int,
    *,
    sequence: int = 1,
    lasts: int = 3600,
    exits: bool = False,
    host: str = "198.51.101.7",
    bandwidth_kbit: int = 1000,
) -> MixDescriptor:
    identity = MIXES[n]
    return sign_descriptor(
        identity,
        network_id="test",
        onion_keys=[OnionKey(1, identity.onion_key)],
        esp_suites=[3, 4],
        endpoints=[Endpoint("203.0.114.5", 4500), Endpoint(host, 4500)],
        roles=Role if exits else [Role.RELAY],
        exit_policy=ExitPolicy(parse_exit_rule("accept *:*")) if exits else None,
        bandwidth_kbit=bandwidth_kbit,
        sequence=sequence,
        valid_from=NOW,
        expires=NOW + lasts,
    )


def filled(*descriptors: MixDescriptor, **settings: object) -> TopologyTable:
    table = TopologyTable(**settings)  # type: ignore[arg-type]  # checked at run time
    for descriptor in descriptors:
        assert table.add(descriptor, NOW)
    return table


def test_node_is_found_by_id_and_by_overlay_address():
    table = filled(mix(0), mix(1))
    assert table.get(MIXES[1].node_id) == mix(1)
    assert table.by_overlay_address(MIXES[1].overlay_address) == mix(1)
    assert table.get(MIXES[2].node_id) is None
    assert table.by_overlay_address(MIXES[2].overlay_address) is None


def test_order_depends_on_nothing_but_the_nodes():
    descriptors = [mix(n) for n in range(6)]
    in_order = sorted(descriptors, key=lambda d: d.node_id)
    assert descriptors != in_order
    assert list(filled(*descriptors)) == list(filled(*reversed(descriptors))) == in_order
    assert list(filled(*descriptors).view(NOW)) == in_order


def test_a_node_that_did_not_answer_since_the_last_crawl_began_is_unheard():
    table = filled(mix(0), mix(1), mix(2))
    assert table.unheard() == frozenset()
    table.heard(MIXES[0].node_id, NOW + 5)
    table.heard(MIXES[1].node_id, NOW - 5)
    table.crawled(NOW)
    assert table.unheard() == {MIXES[1].node_id, MIXES[2].node_id}
    table.heard(MIXES[2].node_id, NOW + 6)
    assert table.unheard() == {MIXES[1].node_id}
    heard = [table.heard_at(each.node_id) for each in MIXES[:3]]
    assert heard == [NOW + 5, NOW - 5, NOW + 6]
    assert table.heard_at(MIXES[5].node_id) is None


def test_silence_counts_only_where_the_descriptor_says_the_node_is():
    table = filled(mix(0), mix(1), mix(2))
    elsewhere = Endpoint("198.51.101.77", 9)
    table.crawled(
        NOW,
        {
            MIXES[0].node_id: elsewhere,
            MIXES[1].node_id: None,
            MIXES[2].node_id: mix(2).endpoints[0],
        },
    )
    assert table.unheard() == {MIXES[2].node_id}


def test_only_known_nodes_are_remembered_as_heard():
    table = filled(mix(0))
    table.heard(MIXES[1].node_id, NOW)
    table.heard(MIXES[0].node_id, NOW)
    table.remove(MIXES[0].node_id)
    assert table.add(mix(0), NOW)
    assert table.add(mix(1), NOW)
    table.crawled(NOW)
    assert table.unheard() == {MIXES[0].node_id, MIXES[1].node_id}


def test_a_node_that_answered_once_is_not_among_the_never_heard():
    table = filled(mix(0), mix(1), mix(2))
    table.heard(MIXES[1].node_id, NOW)
    table.crawled(NOW + 10)
    assert table.never_heard() == {MIXES[0].node_id, MIXES[2].node_id}


def test_highest_sequence_wins():
    table = filled(mix(0, sequence=5))
    assert table.add(mix(0, sequence=6, bandwidth_kbit=7), NOW)
    assert not table.add(mix(0, sequence=5), NOW)
    assert table.get(MIXES[0].node_id) == mix(0, sequence=6, bandwidth_kbit=7)
    assert len(table) == len(list(table)) == 1
    assert table.rejections() == {Rejection.SUPERSEDED: 1}


def test_same_sequence_with_another_content_is_refused():
    table = filled(mix(0))
    assert not table.add(mix(0), NOW)
    assert not table.add(mix(0, bandwidth_kbit=9), NOW)
    assert table.get(MIXES[0].node_id) == mix(0)
    assert table.rejections() == {Rejection.UNCHANGED: 1, Rejection.CONFLICTING: 1}


def test_expired_descriptor_does_not_enter():
    table = TopologyTable()
    assert not table.add(mix(0, lasts=60), NOW + 60)
    assert table.add(mix(0, lasts=60), NOW + 59.9)
    assert table.rejections() == {Rejection.EXPIRED: 1}


def test_expiry_forgets_a_node_everywhere():
    table = filled(mix(0, lasts=60), mix(1, lasts=120))
    assert table.next_expiry() == NOW + 60
    assert table.expire(NOW + 59) == 0
    assert table.expire(NOW + 60) == 1
    assert list(table) == [mix(1, lasts=120)]
    assert table.get(MIXES[0].node_id) is None
    assert table.by_overlay_address(MIXES[0].overlay_address) is None
    assert table.next_expiry() == NOW + 120
    assert table.expire(NOW + 999) == 1
    assert table.next_expiry() == math.inf


def test_renewed_node_outlives_its_first_descriptor():
    table = filled(mix(0, lasts=60), mix(0, sequence=2, lasts=3600))
    assert table.expire(NOW + 60) == 0
    assert table.next_expiry() == NOW + 3600
    assert len(table) == 1


def test_removed_node_may_come_back():
    table = filled(mix(0), mix(1))
    assert table.remove(MIXES[0].node_id)
    assert not table.remove(MIXES[0].node_id)
    assert list(table) == [mix(1)]
    assert table.lookup_public_key(MIXES[0].overlay_address, 1) is None
    assert table.add(mix(0), NOW)


def test_full_table_keeps_known_nodes():
    table = filled(mix(0), mix(1), max_entries=2)
    assert not table.add(mix(2), NOW)
    assert table.rejections() == {Rejection.FULL: 1}
    assert table.add(mix(1, sequence=2), NOW), "a known node may renew itself"
    assert {d.node_id for d in table} == {MIXES[0].node_id, MIXES[1].node_id}


def test_flood_of_nodes_that_never_answer_excludes_no_node_that_does():
    table = TopologyTable(max_entries=3)
    table.take(DescriptorFound(mix(0), answered=True), NOW)
    for flood in (1, 2, 3):
        table.take(DescriptorFound(mix(flood), answered=False), NOW)
    assert table.rejections() == {Rejection.FULL: 1}
    for newcomer in (4, 5):
        table.take(DescriptorFound(mix(newcomer), answered=True), NOW)
        assert table.get(MIXES[newcomer].node_id) == mix(newcomer)
    table.take(DescriptorFound(mix(3), answered=True), NOW)
    assert {d.node_id for d in table} == {MIXES[n].node_id for n in (0, 4, 5)}
    assert table.rejections() == {Rejection.FULL: 2}


def test_full_table_makes_room_when_a_node_expired():
    table = filled(mix(0, lasts=60), mix(1), max_entries=2)
    assert table.add(mix(2), NOW + 60)
    assert {d.node_id for d in table} == {MIXES[1].node_id, MIXES[2].node_id}


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "fd00::1", "169.254.0.1", "::1"])
def test_descriptor_with_one_private_endpoint_is_refused_unless_allowed(host):
    table = TopologyTable()
    assert not table.add(mix(0, host=host), NOW)
    assert table.rejections() == {Rejection.PRIVATE_ENDPOINT: 1}
    assert TopologyTable(allow_private_endpoints=True).add(mix(0, host=host), NOW)


def test_view_shows_only_what_is_valid_then_and_does_not_change():
    table = filled(mix(0, lasts=60), mix(1))
    view = table.view(NOW + 60)
    assert list(view) == [mix(1)]
    assert len(view) == 1
    assert view.get(MIXES[0].node_id) is None
    table.remove(MIXES[1].node_id)
    assert view.get(MIXES[1].node_id) == mix(1)
    assert len(table.view(NOW)) == 1


def test_papers_look_ups_answer_from_the_table_alone():
    table = filled(mix(0))
    address = MIXES[0].overlay_address
    assert table.lookup_public_key(address, 1) == MIXES[0].onion_key
    assert table.lookup_public_key(address, 2) is None
    assert table.lookup_public_key(MIXES[1].overlay_address, 1) is None
    assert table.lookup_crypto_info(address) == CryptoInfo(
        (OnionKey(1, MIXES[0].onion_key),), (3, 4)
    )
    assert table.lookup_crypto_info(MIXES[1].overlay_address) is None


def test_roles_are_counted():
    table = filled(mix(0), mix(1, exits=True), mix(2))
    assert (table.count(Role.RELAY), table.count(Role.EXIT)) == (3, 1)


def test_table_without_room_is_misuse():
    with pytest.raises(ValueError, match="room"):
        TopologyTable(max_entries=0)


def test_only_a_crawl_that_omitted_no_node_shows_which_nodes_are_silent():
    table = TopologyTable()
    table.take(DescriptorFound(mix(0), answered=True), NOW)
    table.take(DescriptorFound(mix(1), answered=False), NOW)
    table.take(CrawlFinished(2, NOW - 1, exhaustive=False), NOW)
    assert len(table) == 2
    assert table.unheard() == frozenset()
    table.take(CrawlFinished(2, NOW - 1), NOW)
    assert table.unheard() == {MIXES[1].node_id}
    table.take(NodeLeft(MIXES[1].node_id), NOW)
    assert table.get(MIXES[1].node_id) is None
