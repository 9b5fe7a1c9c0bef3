"""The crawl machine: closes over the overlay, asks holders for the silent, stays bounded."""

from collections import Counter
from random import Random
from typing import NamedTuple

import pytest
from dht_network import make_identity, public_endpoint

from overlay.addresses import Endpoint, NodeId
from overlay.dht.crawl import Crawl
from overlay.dht.introductions import MAX_OPEN_K, MAX_SILENT_K
from overlay.dht.messages import Contact, Contacts, FindNode, FindRecord, Record
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings
from overlay.errors import Malformed

OWN = NodeId(bytes(20))
NOW = 1000.0


class Described(NamedTuple):
    """What a record says: whose it is, and its sequence number, its last byte (0: none)."""

    key: NodeId
    sequence: int


class World:
    """Nodes with full routing tables of k per bucket; records are their own keys."""

    def __init__(self, count, k):
        rng = Random(5)
        self.k = k
        self.nodes = {}
        for number in range(count):
            node = Contact.of(rng.randbytes(32), public_endpoint(number))
            self.nodes[node.node_id] = node
        self.tables = {node_id: self._table(node_id, rng) for node_id in self.nodes}
        self.rng = rng
        self.silent = set()
        self.found, self.answered, self.descriptors = [], [], []
        self.asked = []

    def _table(self, own, rng):
        buckets = {}
        for other in rng.sample(list(self.nodes.values()), len(self.nodes)):
            if other.node_id != own:
                buckets.setdefault(distance(own, other.node_id).bit_length(), []).append(other)
        return [contact for bucket in buckets.values() for contact in bucket[: self.k]]

    def reply(self, query):
        match query.request:
            case FindNode(target):
                table = self.tables[query.contact.node_id]
                nearest = sorted(table, key=lambda c: distance(c.node_id, target))
                return Contacts(tuple(nearest[: self.k]))
            case FindRecord(key):
                return Record(key)

    def crawl(self, start, doubtful=lambda _: False, **settings):
        def verify(record, key, now):
            if record[:20] != key:
                raise Malformed("not this one")
            return Described(key, int.from_bytes(record[20:]))

        return Crawl(
            OWN,
            start,
            DhtSettings(**{"k": self.k, **settings}),
            verify=verify,
            rng=Random(1),
            now=NOW,
            doubtful=doubtful,
        )

    def run(self, crawl, reply=None):
        """Drive to the end; return the largest number of queries in flight."""
        flying, most = [], 0
        while not crawl.finished(NOW):
            flying += crawl.queries(NOW)
            most = max(most, len(flying))
            if not flying:
                continue
            self.answer(crawl, flying.pop(0), reply)
        return most

    def answer(self, crawl, query, reply=None):
        """Settle one query."""
        self.asked.append(query)
        if query.contact.node_id in self.silent:
            crawl.failed(query)
        else:
            for each in crawl.answered(query, (reply or self.reply)(query), NOW):
                self.descriptors.append(each.descriptor)
                self.found.append(each.descriptor.key)
                self.answered.append(each.answered)


@pytest.mark.slow
def test_crawl_closes_over_the_whole_overlay_from_one_contact():
    world = World(400, 8)
    start = next(iter(world.nodes.values()))
    crawl = world.crawl([start], crawl_in_flight=16)
    assert world.run(crawl) == 16
    assert len(world.found) == len(set(world.found)) == crawl.descriptors == 400
    assert len(world.asked) == 3 * 400


def test_silent_nodes_descriptors_come_from_the_nearest_that_answered():
    world = World(60, 8)
    world.silent = set(list(world.nodes)[1:20])
    crawl = world.crawl([next(iter(world.nodes.values()))])
    world.run(crawl)
    assert set(world.found) == set(world.nodes)
    told_by_others = {
        key for key, answered in zip(world.found, world.answered, strict=True) if not answered
    }
    assert told_by_others == world.silent
    for query in world.asked:
        if isinstance(query.request, FindRecord) and query.request.key != query.contact.node_id:
            living = [c for c in world.nodes.values() if c.node_id not in world.silent]
            key = query.request.key
            nearest = sorted(living, key=lambda c: distance(c.node_id, key))[:3]
            assert query.contact in nearest


def test_false_endpoints_cannot_make_an_honest_node_count_as_asked():
    """Three invented ids at its endpoint use up the quota; a false endpoint leads astray."""
    world = World(3, 8)
    liar, crowded, misplaced = world.nodes.values()
    invented = [Contact.of(bytes([n]) * 32, crowded.endpoint) for n in range(3)]
    moved = Contact(misplaced.node_id, public_endpoint(99), misplaced.identity_key)
    world.silent = {*(each.node_id for each in invented), misplaced.node_id}

    def lie(query):
        if isinstance(query.request, FindNode):
            return Contacts((*invented, crowded, moved))
        return Record(query.request.key)

    crawl = world.crawl([liar])
    world.run(crawl, lie)
    assert crawl.exhaustive
    unanswered = crawl.unanswered()
    assert unanswered.pop(crowded.node_id) is None
    assert unanswered.pop(misplaced.node_id) == moved.endpoint
    assert set(unanswered) == {each.node_id for each in invented}


def test_crawl_that_had_no_room_is_not_exhaustive():
    world = World(30, 8)
    crawl = world.crawl([next(iter(world.nodes.values()))], crawl_max_nodes=16)
    world.run(crawl)
    assert crawl.complete
    assert not crawl.exhaustive


def test_overlay_without_any_answer_ends_the_crawl():
    world = World(9, 8)
    world.silent = set(world.nodes)
    crawl = world.crawl(world.nodes.values())
    world.run(crawl)
    assert crawl.descriptors == 0


def test_crawl_of_nothing_is_over_at_once():
    assert World(9, 8).crawl([]).finished(NOW)


def test_wrong_records_are_counted_not_delivered():
    world = World(9, 8)
    crawl = world.crawl(world.nodes.values())
    world.run(crawl, lambda query: Record(b"junk"))
    assert world.found == []
    assert crawl.refused_records == 27 - 18  # nine records asked for; contacts were no contacts


def test_number_of_nodes_is_bounded():
    world = World(200, 8)
    crawl = world.crawl([next(iter(world.nodes.values()))], crawl_max_nodes=50)
    world.run(crawl)
    assert crawl.descriptors == 50


def test_a_node_that_invents_nodes_is_ignored_soon():
    rng = Random(3)
    world = World(9, 8)
    liar = next(iter(world.nodes.values()))

    def lie(query):
        if isinstance(query.request, FindRecord):
            return world.reply(query)
        return Contacts(
            tuple(
                Contact.of(rng.randbytes(32), public_endpoint(rng.randrange(60_000)))
                for _ in range(20)
            )
        )

    crawl = world.crawl([liar])
    flying = 0
    while not crawl.finished(NOW):
        for query in crawl.queries(NOW):
            flying += 1
            assert flying < 100
            if query.contact == liar:
                crawl.answered(query, lie(query), NOW)
            else:
                crawl.failed(query)
    assert crawl.descriptors >= 1


class Flood:
    """Identities of a few /24s that answer, and introduce somebody new each time."""

    def __init__(self, world, subnets, each=32):
        self.world = world
        self.rng = Random(3)
        self.liars = [
            Contact.of(self.rng.randbytes(32), Endpoint(f"90.0.{subnet}.{number}", 4500))
            for subnet in range(subnets)
            for number in range(1, each + 1)
        ]
        self.ids = {liar.node_id for liar in self.liars}
        self.invented = set()
        self.also_named = ()

    def reply(self, query):
        if query.contact.node_id not in self.ids:
            named = self.world.reply(query)
            if isinstance(named, Contacts):  # liars stand in honest tables, too
                return Contacts((*named.contacts[:-1], self.rng.choice(self.liars)))
            return named
        if isinstance(query.request, FindRecord):
            return Record(query.request.key)
        return Contacts((*self.also_named, *(self._new() for _ in range(20)))[:20])

    def _new(self):
        endpoint = public_endpoint(self.rng.randrange(100_000, 200_000))
        nobody = Contact.of(self.rng.randbytes(32), endpoint)
        self.invented.add(nobody.node_id)
        self.world.silent.add(nobody.node_id)
        return nobody


@pytest.mark.slow
def test_a_few_subnets_that_invent_nodes_neither_busy_a_crawl_nor_fill_it():
    world = World(200, 20)
    flood = Flood(world, subnets=4)
    crawl = world.crawl([*list(world.nodes.values())[:3], *flood.liars], crawl_in_flight=8)
    world.run(crawl, flood.reply)
    assert crawl.exhaustive
    assert set(world.nodes) <= set(world.found)
    assert len(flood.invented) == 4 * 32 * 40
    asked = {query.contact.node_id for query in world.asked} & flood.invented
    assert 4 * MAX_SILENT_K * 20 < len(asked) <= 4 * (MAX_SILENT_K * 20 + 9)
    assert len(crawl.answered_ids) + len(crawl.unanswered()) <= 200 + 4 * (32 + MAX_OPEN_K * 20)
    assert {crawl.unanswered().get(each) for each in flood.invented - asked} == {None}


def test_a_node_that_hostile_nodes_name_first_is_asked_if_another_names_it():
    """Before inventions cost them their credit, three subnets name all the honest, too."""
    world = World(30, 20)
    first, *others = world.nodes.values()
    flood = Flood(world, subnets=3)
    named = Counter()

    def reply(query):
        if isinstance(query.request, FindRecord):
            return Record(query.request.key)
        if query.contact == first:
            return Contacts(tuple(others[:20]))
        if query.contact.node_id not in flood.ids:
            return Contacts(())
        subnet = query.contact.endpoint.packed[:3]
        named[subnet] += 20
        inventing = named[subnet] <= MAX_SILENT_K * 20 + 20
        flood.also_named = () if inventing else world.rng.sample(others, 20)
        return flood.reply(query)

    in_turn = sorted(flood.liars, key=lambda liar: liar.endpoint.packed[3])
    crawl = world.crawl([*in_turn, first], crawl_in_flight=1)
    world.run(crawl, reply)
    assert len(flood.invented) > 3 * MAX_SILENT_K * 20
    assert {each.node_id for each in others[:20]} <= set(world.found)
    assert not {each.node_id for each in others[20:]} & set(world.found)


def test_a_node_that_was_passed_over_is_asked_when_a_credible_node_names_it():
    world = World(30, 20)
    first, late, *others = world.nodes.values()
    flood = Flood(world, subnets=1)
    flood.also_named = others[:1]
    crawl = world.crawl([*flood.liars, late], crawl_in_flight=1)

    def reply(query):
        if query.contact.node_id in flood.ids:
            return flood.reply(query)
        if query.contact == late:
            return Record(query.request.key) if _is_for_record(query) else Contacts((first,))
        return world.reply(query)

    world.run(crawl, reply)
    assert set(world.nodes) <= set(world.found)


def _is_for_record(query):
    return isinstance(query.request, FindRecord)


@pytest.mark.slow
@pytest.mark.parametrize("k", [8, 20, 40])
def test_one_node_that_names_the_dead_of_a_mass_failure_is_believed(k):
    world = World(400, k)
    first, *others = world.nodes.values()
    world.silent = {each.node_id for each in others[::2]}
    crawl = world.crawl([first])
    world.run(crawl)
    assert {query.contact.node_id for query in world.asked} >= set(world.nodes) - world.silent
    assert set(crawl.unanswered()) <= world.silent
    assert None not in crawl.unanswered().values()


def test_inventions_cost_their_reader_and_one_holder_little():
    """A liar introduces a crowd next to one honest node; nobody of it is there."""
    world = World(60, 4)
    liar, target, *_ = world.nodes.values()
    near = int.from_bytes(target.node_id, "big")
    crowd = [
        Contact(NodeId((near ^ n).to_bytes(20, "big")), public_endpoint(1000 + n), b"x" * 32)
        for n in range(1, 400)
    ]
    world.silent = {each.node_id for each in crowd}
    looked_up = []
    crawl = world.crawl(
        [liar, *crowd], lambda node_id: bool(looked_up.append(node_id)), crawl_in_flight=16
    )
    world.run(crawl)
    assert set(looked_up) == world.silent
    asked_about_others = Counter(
        query.contact.node_id
        for query in world.asked
        if isinstance(query.request, FindRecord) and query.request.key != query.contact.node_id
    )
    assert asked_about_others[target.node_id] == max(asked_about_others.values()) == 4 * 4


def test_holders_of_the_silent_are_looked_up_as_their_turn_comes():
    """All at once would hold up every packet that this node forwards."""
    world = World(60, 8)
    world.silent = set(list(world.nodes)[1:40])
    looked_up = []
    crawl = world.crawl(
        world.nodes.values(), lambda node_id: bool(looked_up.append(node_id)), crawl_in_flight=6
    )
    flying = []
    while not looked_up:
        flying += crawl.queries(NOW)
        if not looked_up:
            world.answer(crawl, flying.pop(0))
    assert len(looked_up) == 2  # three questions each


@pytest.mark.parametrize(
    ("endpoints", "limit"),
    [([Endpoint("80.1.2.3", 4500)] * 9, 3), ([Endpoint("80.1.2.3", n) for n in range(1, 10)], 5)],
)
def test_one_endpoint_and_one_subnet_are_asked_a_few_times_only(endpoints, limit):
    world = World(9, 8)
    crowd = [Contact.of(bytes([n]) * 32, endpoint) for n, endpoint in enumerate(endpoints)]
    crawl = world.crawl(crowd, crawl_prefix_limit=5)
    assert len(crawl.queries(NOW)) == limit


def test_time_budget_ends_the_crawl():
    world = World(9, 8)
    crawl = world.crawl(world.nodes.values(), crawl_time_s=10)
    assert crawl.next_deadline() == NOW + 10
    assert crawl.queries(NOW + 10) == []
    assert crawl.finished(NOW + 10)


def test_own_id_is_never_asked():
    me = Contact(OWN, public_endpoint(1), make_identity(1).identity_key)
    assert World(9, 8).crawl([me]).queries(NOW) == []


def hidden(world):
    """Let one node be silent; return its id and the others, nearest to it first."""
    victim = next(iter(world.nodes))
    world.silent = {victim}
    others = [c for c in world.nodes.values() if c.node_id != victim]
    return victim, sorted(others, key=lambda c: distance(c.node_id, victim))


def test_first_holder_that_answers_does_not_decide():
    world = World(60, 8)
    victim, nearest = hidden(world)
    sequences = {holder.node_id: number for number, holder in enumerate(nearest[:3], 1)}

    def reply(query):
        if isinstance(query.request, FindRecord) and query.request.key == victim:
            return Record(victim + bytes([sequences[query.contact.node_id]]))
        return world.reply(query)

    world.run(world.crawl(world.nodes.values()), reply)
    assert max(one.sequence for one in world.descriptors if one.key == victim) == 3


@pytest.mark.parametrize("suspected", [False, True])
def test_adversary_that_owns_the_nearest_holders_hides_nothing_once_it_is_suspected(suspected):
    world = World(60, 8)
    victim, nearest = hidden(world)
    liars = {holder.node_id for holder in nearest[:5]}

    def reply(query):
        if isinstance(query.request, FindRecord) and query.request.key == victim:
            lies = query.contact.node_id in liars
            return Contacts(()) if lies else Record(victim + b"\1")
        return world.reply(query)

    crawl = world.crawl(world.nodes.values(), doubtful=lambda key: suspected and key == victim)
    world.run(crawl, reply)
    assert (victim in world.found) == suspected
