"""What tests by other nodes show of an endpoint, and what they do not show."""

import math

import pytest
from dht_network import make_identity, public_endpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from reach_world import HERE, PENDING, REFUSED, SENT, World, contact

from overlay.addresses import Endpoint
from overlay.dht.admission import prefix_of
from overlay.dht.contacted import Contacted
from overlay.dht.events import DhtCount, ReachChanged, Standing
from overlay.dht.messages import FindNode

ELSEWHERE = Endpoint("90.0.0.1", 51_000)
"""An address that the tested node has never sent to."""


def test_one_probe_that_arrives_shows_that_the_endpoint_is_reached():
    world = World()
    world.wait_for_round()
    first, *_ = world.answer(PENDING)
    assert world.probe(first.nonce, ELSEWHERE)
    assert world.changes == [ReachChanged(HERE, Standing.REACHABLE)]
    world.wait(479)
    assert world.asked == []
    world.wait(242)
    assert len(world.asked) == 3, "tested again after the interval"


def test_three_silent_probes_twice_show_that_it_is_not():
    world = World()
    first = world.round()
    assert world.standing == "untested"
    second = world.round()
    assert world.changes == [ReachChanged(HERE, Standing.UNREACHABLE)]
    assert len({request.nonce for request in first + second}) == 6


def test_the_confirming_round_asks_others():
    world = World(count=6)
    asked = []
    for _ in range(2):
        world.wait_for_round()
        asked += [prefix_of(endpoint) for _, endpoint, *_ in world.asked]
        world.answer(SENT)
        world.wait(2.5)
    assert len(set(asked)) == 6


def test_an_unreachable_endpoint_is_tested_with_back_off_and_comes_back():
    world = World()
    world.round()
    world.round()
    pauses = []
    for _ in range(5):
        since = world.now
        world.round()
        pauses.append(world.now - since)
    assert pauses[0] == pytest.approx(60, rel=0.25)
    assert pauses[-1] == pytest.approx(600, rel=0.25)
    assert pauses[:4] == sorted(pauses[:4])
    world.wait_for_round()
    first, *_ = world.answer(SENT)
    world.probe(first.nonce, ELSEWHERE)
    assert world.standing == "reachable"


def test_a_change_of_the_host_tests_at_once_and_keeps_the_standing():
    world = World()
    world.round()
    world.round()
    world.follow()
    assert world.standing == "not reachable"
    world.wait(2.1)
    assert len(world.asked) == 3


@pytest.mark.parametrize("said", [REFUSED, None])
def test_refusals_and_silence_show_nothing(said):
    world = World()
    for _ in range(9):
        world.wait_for_round()
        world.answer(said)
    world.wait(3)
    assert (world.standing, world.changes) == ("untested", [])


def test_a_lie_or_two_show_nothing():
    world = World()
    for _ in range(20):
        world.wait_for_round()
        world.answer(SENT, count=2)
        while world.asked:
            world.answer(REFUSED)
        world.wait(3)
    assert world.changes == []


def test_an_asked_node_that_is_never_done_is_replaced():
    world = World()
    for _ in range(30):
        world.wait(1)
        world.answer(PENDING)
    assert world.changes == []


@pytest.mark.parametrize(
    "known",
    [
        [],
        [contact(1), contact(2)],
        [contact(n, host=f"80.0.9.{n}") for n in range(1, 20)],
        [contact(n, host=f"{HERE.host.rsplit('.', 1)[0]}.{n + 1}") for n in range(1, 20)],
    ],
    ids=["alone", "two", "one prefix", "own prefix"],
)
def test_too_few_prefixes_of_others_leave_it_untested(known):
    world = World()
    world.known = known
    world.wait(3600)
    assert (world.asked, world.standing) == ([], "untested")


def test_an_overloaded_node_may_have_dropped_the_probes():
    world = World()
    for _ in range(3):
        world.wait_for_round()
        world.counts[DhtCount.RATE_LIMITED] += 1
        world.answer(SENT)
        world.wait(2.5)
    assert world.changes == []


def test_what_a_nat_lets_pass_in_any_case_shows_nothing():
    world = World()
    world.wait_for_round()
    asked = world.asked[0][1]
    first, *_ = world.answer(SENT)
    contacted = public_endpoint(7)
    world.tests.sent_to(contacted, world.now)
    assert world.probe(first.nonce, Endpoint(asked.host, 51_000)), "the asked node's own address"
    assert world.probe(first.nonce, contacted), "a port that was sent to"
    assert world.changes == []


def test_an_address_that_was_sent_to_counts_only_where_others_are_not_to_be_had():
    world = World()
    world.wait_for_round()
    first, *_ = world.answer(SENT)
    other_port = Endpoint(public_endpoint(7).host, 51_000)
    world.tests.sent_to(public_endpoint(7), world.now)
    world.probe(first.nonce, other_port)
    assert world.changes == []
    [(request, *_)] = world.asked  # another node is asked instead
    for each in world.known:
        world.tests.sent_to(each.endpoint, world.now)
    world.probe(request.nonce, other_port)
    assert world.standing == "reachable"


def test_only_a_signed_ping_to_this_node_with_the_right_nonce_is_a_probe():
    world = World()
    world.wait_for_round()
    first, *_ = world.answer(SENT)
    other = make_identity(50).node_id
    assert not world.probe(b"x" * 12, ELSEWHERE)
    assert not world.probe(first.nonce, ELSEWHERE, request=FindNode(other))
    assert world.probe(first.nonce, ELSEWHERE, responder=other)
    assert world.changes == []


def test_nothing_is_tested_after_the_end_or_without_endpoints():
    world = World()
    world.tests.stop()
    assert world.tests.next_deadline() == math.inf
    assert not world.probe(b"x" * 12, ELSEWHERE)


def test_memory_of_contacted_endpoints_is_bounded_and_ends():
    contacted = Contacted()
    contacted.active = True
    for number in range(10_000):
        contacted.note(public_endpoint(number), 0.0)
    assert not contacted.holds_address(public_endpoint(0), 0.0)
    assert contacted.holds_endpoint(public_endpoint(9_999), 299.0)
    assert not contacted.holds_address(public_endpoint(9_999), 301.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([SENT, PENDING, REFUSED, None, "probe"]), max_size=60))
def test_it_is_unreachable_only_after_six_silent_probes(steps):
    world, silent = World(), 0
    for step in steps:
        world.wait_for_round()
        if step == "probe":
            request = world.asked[0][0]
            world.probe(request.nonce, ELSEWHERE)
            assert world.standing == "reachable"
            world.asked, silent = [], 0
        else:
            silent += len(world.answer(step, count=1)) if step is SENT else 0
            world.answer(step, count=1) if step is not SENT else None
        if silent < 6:
            assert world.standing != "not reachable"
        world.wait(0.1)
