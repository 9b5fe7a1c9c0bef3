"""Nodes behind one NAT meet at other nodes, which see that they share an address."""

from random import Random

import pytest
from dht_network import NETWORK_ID, START, AtClock, make_identity, public_endpoint

from overlay.addresses import Endpoint
from overlay.dht.admission import prefix_of
from overlay.dht.calls import VerifiedReply
from overlay.dht.help_messages import Meet, Met
from overlay.dht.meeting_place import MeetingPlace
from overlay.dht.meetings import MAX_NEIGHBOURS, Meetings, Neighbour, places_of
from overlay.dht.messages import Contact
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap

OUTSIDE = Endpoint("80.0.0.1", 4500)
NODES = [Contact.of(make_identity(n).identity_key, public_endpoint(n)) for n in range(1, 40)]


def asker(number, host="80.0.0.1", port=4500):
    return Contact.of(make_identity(number).identity_key, Endpoint(host, port))


FIRST, SECOND = asker(100), asker(101, port=61_000)


def meeting_place(clock):
    return AtClock(MeetingPlace(), clock, {"meet"})


@pytest.fixture
def clock():
    return EventHeap(START)


def test_a_place_hands_over_between_askers_of_one_address(clock):
    place = meeting_place(clock)
    assert place.meet(Meet(SECOND.node_id, b"one"), FIRST) == Met(present=False, sealed=b"")
    assert place.meet(Meet(FIRST.node_id, b"two"), SECOND) == Met(present=True, sealed=b"one")
    assert place.meet(Meet(SECOND.node_id, b"one"), FIRST) == Met(present=True, sealed=b"two")


def test_a_place_tells_nothing_to_other_addresses_other_nodes_and_too_late(clock):
    place = meeting_place(clock)
    place.meet(Meet(SECOND.node_id, b"one"), FIRST)
    nothing = Met(present=False, sealed=b"")
    assert place.meet(Meet(FIRST.node_id, b""), asker(101, host="80.0.0.2")) == nothing
    assert place.meet(Meet(FIRST.node_id, b""), asker(102)) == nothing
    clock.run(clock.now + 601)
    assert place.meet(Meet(FIRST.node_id, b""), SECOND) == nothing


def test_a_place_remembers_a_bounded_number(clock):
    place = meeting_place(clock)
    for number in range(3000):
        clock.run(clock.now + 0.1)
        host = f"80.{number // 250}.{number % 250}.1"
        place.meet(Meet(SECOND.node_id, b"x"), asker(103, host=host))
    # The oldest are removed first, so a new node finds room.
    place.meet(Meet(SECOND.node_id, b"one"), FIRST)
    assert place.meet(Meet(FIRST.node_id, b""), SECOND).sealed == b"one"


def test_one_address_has_a_share_of_a_place(clock):
    place = meeting_place(clock)
    for number in range(200):
        clock.run(clock.now + 1)
        place.meet(Meet(make_identity(number).node_id, b"x"), asker(104))
    met = []
    for number in range(200):
        clock.run(clock.now + 0.5)
        met.append(place.meet(Meet(asker(104).node_id, b""), asker(number)).present)
    assert sum(met) <= 64


def test_both_choose_the_same_places_in_different_prefixes():
    places = places_of(NETWORK_ID, OUTSIDE.packed, NODES)
    assert places == places_of(NETWORK_ID, OUTSIDE.packed, Random(3).sample(NODES, len(NODES)))
    assert len({prefix_of(each.endpoint) for each in places}) == 3
    assert places != places_of("other", OUTSIDE.packed, NODES)
    assert places_of(NETWORK_ID, public_endpoint(5).packed, [NODES[4]]) == []


class Behind:
    """A node behind the NAT; its requests reach places that answer honestly or lie."""

    def __init__(self, world, me, port):
        self.world, self.me = world, me._replace(endpoint=Endpoint(OUTSIDE.host, port))
        self.left, self.told = [], []
        self.meetings = Meetings(self, Random(port))
        self.meetings.serve(self.seal, self.found)

    def seal(self, target, now):
        self.left.append(target)
        return b"for " + target

    def found(self, neighbour, sealed, now):
        self.told.append(list(sealed))
        return b"for " + self.me.node_id in sealed

    def start(self, request, endpoint, responder, now, on_answer):
        place = next(each for each in NODES if each.node_id == responder)
        reply = self.world.reply(place, request, self.me)
        self.world.clock.at(now, self._answered, on_answer, reply and VerifiedReply(place, reply))

    def _answered(self, on_answer, reply):
        on_answer(reply, self.world.clock.now)


class World:
    def __init__(self, clock, *, present=3):
        self.clock = clock
        self.places = places_of(NETWORK_ID, OUTSIDE.packed, NODES)
        self.honest = {each.node_id: meeting_place(clock) for each in self.places}
        self.dead, self.lying = set(), set()
        self.first, self.second = Behind(self, FIRST, 4500), Behind(self, SECOND, 4501)

    def reply(self, place, request, me):
        if place.node_id in self.dead:
            return None
        if place.node_id in self.lying:
            return Met(present=True, sealed=b"lie")
        return self.honest[place.node_id].meet(request, me)

    def follow(self, *, both=True):
        for one, other in ((self.first, SECOND), (self.second, FIRST))[: 2 if both else 1]:
            neighbour = Neighbour(other.node_id, tuple(self.places))
            one.meetings.follow([neighbour], self.clock.now)

    def run(self, seconds):
        nodes = (self.first.meetings, self.second.meetings)
        run_with_deadlines(self.clock, self.clock.now + seconds, lambda: nodes)


@pytest.mark.parametrize("dead", [0, 1])
def test_both_learn_what_the_other_left_though_a_place_is_dead(clock, dead):
    world = World(clock)
    world.dead = {each.node_id for each in world.places[:dead]}
    world.follow()
    world.run(30)
    for node in (world.first, world.second):
        assert b"for " + node.me.node_id in node.told[-1]


def test_nothing_is_left_unless_two_places_see_both(clock):
    world = World(clock)
    world.lying = {world.places[0].node_id}
    world.follow(both=False)
    world.run(3600)
    assert world.first.left == []
    assert not any(world.first.told), "nor is taken what a single place hands over"
    world.lying.add(world.places[1].node_id)
    world.run(600)
    assert world.first.left != []


def test_a_neighbour_that_goes_away_is_forgotten(clock):
    world = World(clock)
    world.follow()
    world.run(30)
    world.second.meetings.follow((), clock.now)
    world.run(1200)
    assert world.first.told[-1] == []
    world.first.meetings.follow((), clock.now)
    assert world.first.meetings.next_deadline() == float("inf")


def test_pauses_are_long_once_both_know_and_short_after_a_change(clock):
    world = World(clock)
    world.follow()
    world.run(60)
    assert world.first.meetings.next_deadline() - clock.now > 100
    world.first.meetings.again(clock.now)
    assert world.first.meetings.next_deadline() - clock.now < 5


def test_at_most_eight_neighbours_are_met(clock):
    world = World(clock)
    many = [Neighbour(each.node_id, tuple(world.places)) for each in NODES]
    world.first.meetings.follow(many, clock.now)
    world.run(4)
    assert len(world.first.told) <= MAX_NEIGHBOURS
