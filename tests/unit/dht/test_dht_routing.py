"""The routing table against Kademlia's rules and a stupid oracle."""

from random import Random

import pytest
from dht_network import AtClock, public_endpoint

from overlay.addresses import Endpoint, NodeId
from overlay.dht.messages import Contact
from overlay.dht.routing import Table, distance
from overlay.dht.settings import DhtSettings

OWN = NodeId(bytes(20))


TIMED = {"file", "lonely_buckets", "refresh_target", "refreshed", "renewed", "seen"}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def make_table(**settings):
    clock = Clock()
    table = Table(OWN, DhtSettings(**{"k": 4, **settings}), Random(1))
    return AtClock(table, clock, TIMED), clock


def contact(number, *, host=None, bucket=None):
    """A contact with a made-up id: in the far half, unless ``bucket`` says how many zero bits."""
    node_id = (number + (1 << (159 - (bucket or 0)))).to_bytes(20, "big")
    endpoint = Endpoint(host, 4500) if host else public_endpoint(number)
    return Contact(NodeId(node_id), endpoint, b"k" * 32)


def test_sighting_moves_a_contact_to_the_tail_and_renews_its_endpoint():
    table, clock = make_table()
    contacts = [contact(n) for n in range(4)]
    for one in contacts:
        table.seen(one)
    moved = Contact(contacts[0].node_id, public_endpoint(99), b"k" * 32)
    clock.now += 10
    table.seen(moved)
    order = [e.contact for e in table.buckets[0].nodes.values()]
    assert order == [contacts[1], contacts[2], contacts[3], moved]


def test_full_bucket_asks_for_a_ping_of_its_least_recently_seen_contact():
    table, clock = make_table(liveness_interval_s=60)
    contacts = [contact(n) for n in range(4)]
    for one in contacts:
        table.seen(one)
    newcomer = contact(7)
    assert table.seen(newcomer) is None  # all were seen just now
    assert table.get(newcomer.node_id) is None
    clock.now += 60
    assert table.seen(newcomer) == contacts[0]
    table.failed(contacts[0])  # the ping was not answered
    assert table.get(contacts[0].node_id) is None
    assert table.get(newcomer.node_id) == newcomer


def test_contact_that_answers_the_ping_keeps_its_place():
    table, clock = make_table()
    contacts = [contact(n) for n in range(4)]
    for one in contacts:
        table.seen(one)
    clock.now += 60
    doubtful = table.seen(contact(7))
    table.seen(doubtful)
    assert table.get(doubtful.node_id) == doubtful
    assert len(table) == 4
    assert table.seen(contact(8)) == contacts[1]


def test_single_failure_has_no_effect_without_replacements():
    table, _ = make_table(contact_max_failures=2)
    one = contact(1)
    table.seen(one)
    table.failed(one)
    assert table.get(one.node_id) == one
    assert table.closest(one.node_id, 4, alive=True) == []
    table.seen(one)
    assert table.closest(one.node_id, 4, alive=True) == [one]
    table.failed(one)
    table.failed(one)
    assert len(table) == 0


def test_silence_at_a_falsely_claimed_endpoint_costs_a_contact_nothing():
    """Or whoever answers lookups could empty our table of everybody else."""
    table, _ = make_table(contact_max_failures=1)
    contacts = [contact(n) for n in range(5)]
    for one in contacts:
        table.seen(one)  # the last one waits for a place
    for one in contacts:
        table.failed(one._replace(endpoint=public_endpoint(99)))
    assert list(table) == contacts[:4]
    table.failed(contacts[0])
    assert set(table) == set(contacts[1:])


def test_own_bucket_splits_and_others_do_not():
    table, _ = make_table()
    for number in range(40):
        table.seen(contact(number))
        table.seen(contact(number + 100, bucket=1))
    assert [len(bucket.nodes) for bucket in table.buckets] == [0, 4, 4]
    lower, upper = zip(*(bucket.range for bucket in table.buckets), strict=True)
    assert lower[0] == 0
    assert upper[-1] == 2**160 - 1
    assert [high + 1 for high in upper[:-1]] == list(lower[1:])


def test_own_id_never_enters():
    table, _ = make_table()
    assert table.seen(Contact(OWN, public_endpoint(1), b"k" * 32)) is None
    assert len(table) == 0


def test_subnet_gets_two_places_per_bucket_and_three_per_table():
    table, _ = make_table()
    for number in range(1, 5):
        table.seen(contact(number, host=f"80.1.2.{number}"))
    assert len(table) == 2
    for number in range(20, 26):
        table.seen(contact(number, bucket=number % 3))  # fills and splits our own bucket
    assert len(table.buckets) > 1
    before = len(table)
    table.seen(contact(1, host="80.1.2.9", bucket=3))
    assert len(table) == before + 1
    table.seen(contact(2, host="80.1.2.10", bucket=5))
    assert len(table) == before + 1
    table.seen(contact(3, host="80.1.3.1", bucket=5))
    assert len(table) == before + 2


def test_replacements_count_against_the_subnet():
    table, _ = make_table(k=1, table_prefix_limit=3)
    for number in range(1, 8):
        table.seen(contact(number, host=f"80.1.2.{number}"))
    assert sum(len(list(bucket.entries())) for bucket in table.buckets) == 2


def test_ipv6_subnet_is_a_48():
    table, _ = make_table(k=8)
    for number in range(1, 5):
        table.seen(contact(number, host=f"2a00:1:2:{number}::1"))
    assert len(table) == 2


@pytest.mark.parametrize(("limited", "expected"), [(False, 8), (True, 2)])
def test_private_subnets_are_exempt_unless_limited(limited, expected):
    table, _ = make_table(k=8, limit_private_prefixes=limited, allow_private_endpoints=True)
    for number in range(1, 9):
        table.seen(contact(number, host=f"10.0.0.{number}"))
    assert len(table) == expected


def test_closest_are_the_true_closest():
    rng = Random(3)
    table = Table(OWN, DhtSettings(k=20), rng)
    for number in range(300):
        table.seen(Contact.of(rng.randbytes(32), public_endpoint(number)), 0.0)
    everyone = list(table)
    assert len(everyone) > 60
    for _ in range(30):
        target = NodeId(rng.randbytes(20))
        oracle = sorted(everyone, key=lambda c: distance(c.node_id, target))
        assert table.closest(target, 20) == oracle[:20]
        assert table.closest(target, 20, exclude=oracle[0].node_id) == oracle[1:21]


def test_refresh_target_lies_in_a_bucket_that_is_due():
    table, clock = make_table(refresh_interval_s=100)
    for number in range(9):
        table.seen(contact(number))
        table.seen(contact(number + 100, bucket=1))
    for _ in table.buckets:
        target = table.refresh_target()
        assert target is not None
        table.refreshed(target)
    assert table.refresh_target() is None
    clock.now += 100
    assert table.refresh_target() is not None


def test_requests_of_unknown_nodes_cannot_suppress_a_refresh():
    table, _ = make_table()
    table.seen(contact(1))
    table.closest(contact(1).node_id, 4)
    table.find_neighbors(table.node)
    assert table.refresh_target() is not None


def test_one_ipv6_provider_gets_half_of_a_bucket():
    """A /32 has 65,536 subnets, so that the caps of subnets alone would leave it every place."""
    table, clock = make_table(k=20)
    attackers = [contact(n, host=f"2a02:1234:{n:x}::1") for n in range(60)]
    for attacker in attackers:
        table.seen(attacker)
    assert len(list(table.buckets[0].entries())) == 10
    honest = [contact(100 + n, host=f"2a0{n % 7 + 3}:{n:x}::1") for n in range(10)]
    for one in honest:
        assert table.seen(one) is None
    assert {one.node_id for one in honest} <= set(table.buckets[0].nodes)
    clock.now += 1
    table.seen(attackers[0])
    assert list(table.buckets[0].nodes)[-1] == attackers[0].node_id, "it has its place already"


def test_subnets_are_counted_as_a_recount_would_through_any_history():
    rng = Random(5)
    table, clock = make_table(bucket_prefix_limit=2, table_prefix_limit=3, contact_max_failures=1)
    known = []
    for _ in range(3000):
        clock.now += 1
        if known and rng.random() < 0.3:
            gone = known.pop(rng.randrange(len(known)))
            if rng.random() < 0.5:
                table.failed(gone)
            else:
                table.remove(gone.node_id)
        else:
            host = f"80.1.{rng.randrange(60)}.{rng.randrange(1, 200)}"
            bucket = rng.choice([0, 0, 0, 1, 2, 5])
            known.append(contact(rng.randrange(1, 150), host=host, bucket=bucket))
            table.seen(known[-1])
        entries = [each for bucket in table.buckets for each in bucket.entries()]
        groups = [each.group for each in entries]
        assert table.subnets() == {group: groups.count(group) for group in groups}
        assert all(count <= 3 for count in table.subnets().values())
    assert len(entries) > 10


def test_the_closest_of_one_bucket_are_those_that_a_search_of_the_whole_table_finds():
    rng = Random(6)
    table, _ = make_table(k=8)
    for number in range(400):
        table.seen(contact(number, bucket=rng.choice([0, 1, 2, 3, 8])))
    everyone = list(table)
    assert len(everyone) > 20
    for _ in range(200):
        target = NodeId(rng.randbytes(20))
        count, excluded = rng.randrange(1, 12), rng.choice(everyone).node_id
        left = [one for one in everyone if one.node_id != excluded]
        nearest = sorted(left, key=lambda one: distance(one.node_id, target))[:count]
        assert table.closest(target, count, exclude=excluded) == nearest


def test_a_lookup_of_ones_own_id_leaves_the_far_buckets_to_be_refreshed():
    """The bucket that it passed through is split later; once all parts counted as refreshed."""
    table, _ = make_table()
    table.refreshed(OWN)
    for number in range(4):
        table.seen(contact(number + 1))
        table.seen(contact(number + 101, bucket=1))
        table.seen(contact(number + 201, bucket=2))
    assert len(table.buckets) > 2
    due = table.lonely_buckets()
    assert [bucket.has_in_range(table.node) for bucket in table.buckets].count(True) == 1
    assert due == [bucket for bucket in table.buckets if not bucket.has_in_range(table.node)]


class LongWay(Table):
    """Files a replacement that is seen again as it would file a stranger."""

    def seen(self, contact, now):
        number = int.from_bytes(contact.node_id)
        for bucket in self.buckets:
            known = bucket.replacement_nodes.get(contact.node_id)
            if known is not None and known.contact.endpoint == contact.endpoint:
                assert bucket.range[0] <= number <= bucket.range[1]
                bucket.remove_node(known)
        return super().seen(contact, now)


def test_a_replacement_that_is_seen_again_is_where_filing_it_anew_would_put_it():
    rng, clock = Random(5), Clock()
    settings = DhtSettings(k=4, liveness_interval_s=30)
    short, long = (kind(OWN, settings, Random(1)) for kind in (Table, LongWay))
    known = [contact(n, bucket=rng.randrange(6)) for n in range(60)]
    for _ in range(2000):
        clock.now += rng.random()
        one = rng.choice(known)
        if rng.random() < 0.1:
            one = Contact(one.node_id, public_endpoint(rng.randrange(60)), one.identity_key)
        if rng.random() < 0.8:
            assert short.seen(one, clock.now) == long.seen(one, clock.now)
        else:
            short.failed(one)
            long.failed(one)
        assert contents(short) == contents(long)
        assert [short.has_fewer_than(n) for n in (len(short), len(short) + 1)] == [False, True]


def contents(table):
    return [
        [(e.contact, e.last_seen, e.failures) for e in bucket.entries()] for bucket in table.buckets
    ]
