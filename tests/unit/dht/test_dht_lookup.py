"""The lookup machine: alpha in flight, budgets, the dead stay dead, disjoint paths."""

from random import Random

import pytest
from dht_network import public_endpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_lookup import PlainLookup

from overlay.addresses import Endpoint, NodeId
from overlay.dht.inspection import LookupInspection
from overlay.dht.lookup import Lookup
from overlay.dht.messages import Contact, Contacts, Pong
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings

TARGET = NodeId(b"\x80" * 20)
OWN = NodeId(bytes(20))
NOW = 1000.0


class World:
    """Nodes that know each other as Kademlia prescribes; some are dead."""

    def __init__(self, count, k, *, dead=0.0, seed=1):
        rng = Random(seed)
        self.k = k
        self.nodes = [Contact.of(rng.randbytes(32), public_endpoint(n)) for n in range(count)]
        self.dead = {node.node_id for node in self.nodes if rng.random() < dead}
        self.known = {node.node_id: rng.sample(self.nodes, 3 * k) for node in self.nodes}
        for node in self.nodes:
            self.known[node.node_id] += self.nearest(node.node_id)[:k]
        self.rng = rng

    def nearest(self, target, among=None):
        return sorted(among or self.nodes, key=lambda c: distance(c.node_id, target))

    def reply(self, query):
        known = self.known[query.contact.node_id]
        return Contacts(tuple(self.nearest(TARGET, known)[: self.k]))

    def run(self, lookup):
        """Answer in random order; return how many queries were in flight at most, and in all."""
        flying, most, total = [], 0, 0
        while not lookup.finished(NOW):
            fresh = lookup.queries(NOW)
            flying += fresh
            total += len(fresh)
            most = max(most, len(flying))
            query = flying.pop(self.rng.randrange(len(flying)))
            if query.contact.node_id in self.dead:
                lookup.failed(query)
            else:
                lookup.answered(query, self.reply(query), NOW)
        return most, total


def late(lookup, flying):
    for query in flying:
        lookup.slow(query)


def make_lookup(world, **settings):
    values = {"k": world.k, "alpha": 4, "disjoint_paths": 2, **settings}
    start = world.rng.sample(world.nodes, world.k)
    return Lookup(TARGET, OWN, start, DhtSettings(**values), NOW)


@pytest.mark.parametrize("paths", [1, 2, 4])
def test_lookup_finds_the_true_nearest(paths):
    world = World(150, 8)
    lookup = make_lookup(world, disjoint_paths=paths)
    most, _ = world.run(lookup)
    found = lookup.closest()
    assert len(set(found) & set(world.nearest(TARGET)[:8])) >= 7
    assert most == 4


@pytest.mark.parametrize("seed", range(5))
def test_the_dead_are_never_returned_nor_asked_twice(seed):
    world = World(150, 8, dead=0.3, seed=seed)
    lookup = make_lookup(world)
    _, total = world.run(lookup)
    found = {contact.node_id for contact in lookup.closest()}
    living = [node for node in world.nodes if node.node_id not in world.dead]
    assert not found & world.dead
    assert len(found & {c.node_id for c in world.nearest(TARGET, living)[:8]}) >= 6
    assert total < 100


def test_failed_peer_that_another_mentions_is_not_asked_again():
    peers = [Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in range(3)]
    lookup = Lookup(TARGET, OWN, peers[:2], DhtSettings(disjoint_paths=1), NOW)
    first, second = lookup.queries(NOW)
    lookup.failed(first)
    lookup.answered(second, Contacts((first.contact, peers[2])), NOW)
    (third,) = lookup.queries(NOW)
    assert third.contact == peers[2]
    lookup.answered(third, Contacts((first.contact,)), NOW)
    assert lookup.finished(NOW)
    assert set(lookup.closest()) == {second.contact, third.contact}


def test_lookup_without_contacts_is_over_at_once():
    lookup = Lookup(TARGET, OWN, [], DhtSettings(), NOW)
    assert lookup.queries(NOW) == []
    assert lookup.finished(NOW)
    assert lookup.closest() == []


def test_own_id_is_never_asked():
    me = Contact(OWN, public_endpoint(1), b"m" * 32)
    lookup = Lookup(TARGET, OWN, [me], DhtSettings(), NOW)
    assert lookup.queries(NOW) == []


def inventor(lookup, rng, *, most=5000):
    """Answer every query with ever nearer ids; return the number of queries."""
    total = 0
    while not lookup.finished(NOW) and total < most:
        for query in lookup.queries(NOW):
            total += 1
            near = distance(query.contact.node_id, TARGET) // 2
            node_id = NodeId((near ^ int.from_bytes(TARGET, "big")).to_bytes(20, "big"))
            endpoint = public_endpoint(rng.randrange(50_000))
            lookup.answered(query, Contacts((Contact(node_id, endpoint, rng.randbytes(32)),)), NOW)
    return total


def test_inventor_of_nearer_ids_is_left_after_the_hop_budget():
    settings = DhtSettings(k=4, lookup_max_hops=10)
    start = [Contact.of(b"s" * 32, public_endpoint(1))]
    assert inventor(Lookup(TARGET, OWN, start, settings, NOW), Random(1)) == 11


def test_query_budget_ends_a_lookup():
    settings = DhtSettings(k=20, lookup_max_hops=64, lookup_max_queries=7, disjoint_paths=1)
    start = [Contact.of(b"s" * 32, public_endpoint(1))]
    lookup = Lookup(TARGET, OWN, start, settings, NOW)
    assert inventor(lookup, Random(1)) == 7
    assert len(lookup.closest()) == 7


def test_time_budget_ends_a_lookup_with_what_it_has():
    peers = [Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in range(3)]
    lookup = Lookup(TARGET, OWN, peers, DhtSettings(lookup_time_s=20), NOW)
    first, *_ = lookup.queries(NOW)
    lookup.answered(first, Contacts(()), NOW)
    assert not lookup.finished(NOW + 19)
    assert lookup.next_deadline() == NOW + 20
    assert lookup.finished(NOW + 20)
    assert lookup.queries(NOW + 20) == []
    assert lookup.closest() == [first.contact]


def test_one_endpoint_is_asked_under_three_ids_only():
    here = public_endpoint(7)
    peers = [Contact.of(bytes([n]) * 32, here) for n in range(20)]
    honest = Contact.of(b"h" * 32, public_endpoint(8))
    lookup = Lookup(TARGET, OWN, [*peers, honest], DhtSettings(disjoint_paths=1, alpha=20), NOW)
    asked = [query.contact for query in lookup.queries(NOW)]
    assert len([contact for contact in asked if contact.endpoint == here]) == 3
    assert honest in asked


def test_a_path_follows_only_what_it_learned_itself():
    liar, honest = (Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in (1, 2))
    lookup = Lookup(TARGET, OWN, [liar, honest], DhtSettings(k=2, disjoint_paths=2, alpha=2), NOW)
    by_contact = {query.contact: query for query in lookup.queries(NOW)}
    accomplices = tuple(
        Contact(NodeId(TARGET[:-1] + bytes([n])), public_endpoint(50 + n), b"x" * 32)
        for n in range(2)
    )
    lookup.answered(by_contact[liar], Contacts(accomplices), NOW)
    friend = Contact.of(b"f" * 32, public_endpoint(9))
    lookup.answered(by_contact[honest], Contacts((friend,)), NOW)
    asked = {query.contact for query in lookup.queries(NOW)}
    assert friend in asked  # though the accomplices, on the other path, are nearer


def test_every_node_is_asked_by_one_path_only():
    shared = Contact.of(b"s" * 32, public_endpoint(9))
    peers = [Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in (1, 2)]
    lookup = Lookup(TARGET, OWN, peers, DhtSettings(disjoint_paths=2), NOW)
    for query in lookup.queries(NOW):
        lookup.answered(query, Contacts((shared,)), NOW)
    assert [query.contact for query in lookup.queries(NOW)] == [shared]


HONEST = tuple(Contact.of(bytes([100 + n]) * 32, public_endpoint(100 + n)) for n in range(4))
MISPLACED = tuple(one._replace(endpoint=public_endpoint(200 + n)) for n, one in enumerate(HONEST))


def who_answers(lookup, reply, *, nobody=Lookup.failed):
    """Run a lookup in which ``reply`` tells what a contact says, or None if nobody is there."""
    while fresh := lookup.queries(NOW):
        for query in fresh:
            contacts = reply(query.contact)
            if contacts is None:
                nobody(lookup, query)
            else:
                lookup.answered(query, Contacts(contacts), NOW)
    assert lookup.finished(NOW)
    return set(lookup.closest())


@pytest.mark.parametrize("nobody", [Lookup.failed, Lookup.slow])
@pytest.mark.parametrize("paths", [1, 2])
def test_false_endpoints_of_honest_nodes_hide_them_from_no_lookup(paths, nobody):
    liar, friend = (Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in (1, 2))
    says = {liar: MISPLACED, friend: HONEST} | dict.fromkeys(HONEST, ())
    settings = DhtSettings(k=6, disjoint_paths=paths, alpha=6)
    lookup = Lookup(TARGET, OWN, [liar, friend], settings, NOW)
    first, second = sorted(lookup.queries(NOW), key=lambda query: query.contact != liar)
    lookup.answered(first, Contacts(MISPLACED), NOW)
    lies = lookup.queries(NOW)
    assert lies
    for query in lies:
        nobody(lookup, query)
    lookup.answered(second, Contacts(HONEST), NOW)
    assert who_answers(lookup, says.get, nobody=nobody) == set(says)


def test_a_node_that_has_answered_is_not_asked_at_another_claimed_endpoint():
    settings = DhtSettings(disjoint_paths=1)
    lookup = Lookup(TARGET, OWN, HONEST, settings, NOW)
    assert who_answers(lookup, lambda _: MISPLACED) == set(HONEST)
    assert lookup.asked == len(HONEST)


def test_claims_about_one_node_are_bounded():
    claims = [HONEST[0]._replace(endpoint=public_endpoint(200 + n)) for n in range(9)]
    peers = [Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in range(9)]
    lookup = Lookup(TARGET, OWN, peers, DhtSettings(disjoint_paths=1), NOW)
    claimed = dict(zip(peers, claims, strict=True))
    who_answers(lookup, lambda one: (claimed[one],) if one in claimed else None)
    assert lookup.asked == len(peers) + 3


def neighbours_of_the_target(count, endpoint):
    return tuple(
        Contact(NodeId(TARGET[:-1] + bytes([n])), endpoint(n), b"x" * 32) for n in range(count)
    )


def test_one_host_with_many_ids_and_ports_gets_a_few_places_of_each_path():
    crowd = neighbours_of_the_target(40, lambda n: Endpoint("203.0.114.9", 5000 + n))
    says = {one: tuple(other for other in crowd[n // 20 * 20 :][:20] if other != one)
            for n, one in enumerate(crowd)}  # fmt: skip
    start = [*HONEST, crowd[0], crowd[1], crowd[20]]
    lookup = Lookup(TARGET, OWN, start, DhtSettings(k=20, disjoint_paths=3), NOW)
    found = who_answers(lookup, lambda one: says.get(one, ()))
    assert found >= set(HONEST)
    assert len(found & set(crowd)) <= 9


def test_a_path_cannot_use_up_the_places_of_an_honest_endpoint_on_another():
    liar, friend = (Contact.of(bytes([n]) * 32, public_endpoint(n)) for n in (1, 2))
    inventions = neighbours_of_the_target(3, lambda _: HONEST[0].endpoint)
    lookup = Lookup(TARGET, OWN, [liar, friend], DhtSettings(disjoint_paths=2), NOW)
    first, second = sorted(lookup.queries(NOW), key=lambda query: query.contact != liar)
    lookup.answered(first, Contacts(inventions), NOW)
    lies = lookup.queries(NOW)
    assert len(lies) == 3
    for query in lies:
        lookup.failed(query)
    lookup.answered(second, Contacts(HONEST[:1]), NOW)
    assert HONEST[0] in who_answers(lookup, lambda _: ())


def test_reply_of_another_kind_counts_as_an_answer_without_contacts():
    peer = Contact.of(b"p" * 32, public_endpoint(1))
    lookup = Lookup(TARGET, OWN, [peer], DhtSettings(), NOW)
    (query,) = lookup.queries(NOW)
    lookup.answered(query, Pong(), NOW)
    assert lookup.finished(NOW)
    assert lookup.closest() == [peer]


def test_memory_of_a_path_is_bounded():
    rng = Random(1)
    peers = [Contact.of(rng.randbytes(32), public_endpoint(n)) for n in range(300)]
    lookup = Lookup(TARGET, OWN, peers, DhtSettings(k=4, disjoint_paths=1), NOW)
    nearest = sorted(peers, key=lambda c: distance(c.node_id, TARGET))
    asked = []
    while queries := lookup.queries(NOW):
        for query in queries:
            asked.append(query.contact)
            lookup.failed(query)
    assert asked == nearest[:32], "it remembers as many, and none of them answers"
    assert lookup.finished(NOW)


def test_a_late_node_frees_its_place_and_delays_nothing_once_k_have_answered():
    world = World(200, 8)
    lookup = make_lookup(world)
    first = lookup.queries(NOW)
    late(lookup, first)
    others = lookup.queries(NOW)
    assert len(others) == len(first) == 4
    for query in others:
        lookup.answered(query, world.reply(query), NOW)
    world.run(lookup)
    found = {contact.node_id for contact in lookup.closest()}
    assert len(found) == 8
    assert found.isdisjoint(query.contact.node_id for query in first)


def test_a_lookup_waits_for_the_late_while_it_has_fewer_than_k():
    world = World(24, 8)
    settings = DhtSettings(k=8, alpha=4, disjoint_paths=2)
    lookup = Lookup(TARGET, OWN, world.nodes[:3], settings, NOW)
    flying = lookup.queries(NOW)
    late(lookup, flying)
    assert not lookup.finished(NOW)
    lookup.answered(flying[0], Contacts(()), NOW)
    for query in flying[1:]:
        lookup.failed(query)
    assert lookup.finished(NOW)
    assert lookup.closest() == [flying[0].contact]


def test_a_late_answer_counts_if_the_lookup_still_runs():
    world = World(200, 8)
    lookup = make_lookup(world)
    tardy, *prompt = lookup.queries(NOW)
    lookup.slow(tardy)
    lookup.slow(tardy)
    lookup.answered(tardy, world.reply(tardy), NOW)
    for query in prompt:
        lookup.answered(query, world.reply(query), NOW)
    world.run(lookup)
    assert lookup.finished(NOW)


def test_a_failure_after_being_late_is_settled_once():
    world = World(60, 8, dead=0.5)
    lookup = make_lookup(world)
    flying = lookup.queries(NOW)
    late(lookup, flying)
    for query in flying:
        lookup.failed(query)
    most, _ = world.run(lookup)
    assert most == 4


def test_a_long_lookup_does_not_lose_the_node_that_it_has_just_found():
    """With k = 1 a path of more hops than it remembers candidates once ended before its target."""
    settings = DhtSettings(k=1, alpha=1, disjoint_paths=1)
    hops = [Contact(NodeId((1 << (159 - n)).to_bytes(20, "big")), public_endpoint(n), b"k" * 32)
            for n in range(14)]  # fmt: skip
    lookup = Lookup(NodeId(bytes(20)), NodeId(b"o" * 20), hops[:1], settings, 0.0)
    for following in hops[1:]:
        (query,) = lookup.queries(0.0)
        lookup.answered(query, Contacts((following,)), NOW)
    (query,) = lookup.queries(0.0)
    assert query.contact == hops[-1]
    assert LookupInspection(lookup).hops_to(hops[-1].node_id) == 13


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_a_lookup_asks_as_its_rules_say_without_shortcuts(seed):
    """Nodes that die, dawdle, move and crowd one subnet, as a stranger sees them."""
    rng = Random(seed)
    keys = [rng.randbytes(32) for _ in range(rng.choice((5, 30, 120)))]
    crowd = [Endpoint(f"198.41.7.{n}", 4500) for n in range(1, 40)]
    places = [public_endpoint(n) for n in range(len(keys))] + crowd
    crowded = rng.choice((0.2, 0.6))

    def someone():
        key = rng.choice(keys)
        usual = rng.random() >= crowded
        return Contact.of(key, places[keys.index(key)] if usual else rng.choice(places))

    values = DhtSettings(
        k=rng.choice((2, 4, 8)),
        alpha=3,
        disjoint_paths=rng.choice((1, 2, 3)),
        lookup_max_queries=60,
    )
    start = [someone() for _ in range(rng.randrange(1, 9))]
    both = [kind(TARGET, OWN, start, values, NOW) for kind in (Lookup, PlainLookup)]
    flying, slow = [], []
    while not both[0].finished(NOW):
        asked, expected = (each.queries(NOW) for each in both)
        assert asked == expected
        flying += asked
        happens = rng.random()
        if happens < 0.2 and flying:
            what, query = "slow", flying.pop(rng.randrange(len(flying)))
            slow.append(query)
        else:
            pool = flying if flying and (not slow or rng.random() < 0.7) else slow
            if not pool:
                break
            query = pool.pop(rng.randrange(len(pool)))
            what = "failed" if happens < 0.5 else "answered"
        reply = Contacts(tuple(someone() for _ in range(values.k))) if what == "answered" else None
        for each in both:
            if what == "answered":
                each.answered(query, reply, NOW)
            else:
                getattr(each, what)(query)
        assert both[0].finished(NOW) == both[1].finished(NOW)
    assert both[0].closest() == both[1].closest()
