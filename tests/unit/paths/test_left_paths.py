# ruff: noqa: F811 - fixtures of another module
"""Paths that were left, requests of several destinations, and blocked IP versions."""

from ipaddress import ip_network

import pytest
from requested_paths import (
    BOB,
    NOW,
    VC,
    World,
    mix,
    world,  # noqa: F401 - fixtures
)

from overlay.addresses import InnerAddress
from overlay.apm.events import CircuitEnd, CircuitFailed, CircuitLost, CircuitOpened
from overlay.errors import (
    BackendError,
    CircuitTimedOut,
    ConfigurationError,
    LimitReached,
    NoSuitablePath,
)
from overlay.paths.ip_versions import BLOCKED_FAMILY
from overlay.paths.path_table import MAX_PATHS
from overlay.paths.requested_path import PathState, PathTerms

ALICE = ip_network("2a00:77::10/128")
LOST = CircuitEnd.UNANSWERED


def exits_for_both():
    """Mix-nodes with exits for both IP versions."""
    return [mix(n) for n in range(1, 6)] + [mix(n, exits=True, both=True) for n in (6, 7)]


def fail(world, path, now):
    """Let every circuit of an opening path fail until the path has settled."""
    while not path.settled:
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = max(now + 1, min(world.paths.next_deadline(), now + 100))
        if not path.settled:
            world.paths.handle_deadline(now)
    return now


def test_a_request_takes_over_what_a_dead_node_left(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    world.paths.handle_deadline(NOW)
    path = world.request()
    assert (path.number, path.settled) == (1, False)
    world.open(1)
    assert path.settled
    assert (path.error, len(world.circuits.opened)) == (None, 1)
    with pytest.raises(ConfigurationError, match="path 1 serves this destination already"):
        world.request()


def test_a_request_takes_over_a_path_that_is_open_at_once(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    world.paths.handle_deadline(NOW)
    world.open(1)
    path = world.request()
    assert path.settled
    assert world.kill_switch.carried == {BOB: VC}


def test_other_parameters_replace_the_circuit_and_never_release(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform", both_versions=True)], NOW)
    world.paths.handle_deadline(NOW)
    world.open(1)
    blocked = set(world.kill_switch.protected)
    world.kill_switch.refuse.add("release")
    (path,) = world.paths.open_paths([PathTerms(BOB, 2, "uniform")], NOW)
    assert (world.circuits.closed, path.settled) == ([1], False)
    assert world.kill_switch.protected == blocked
    assert path.terms == PathTerms(BOB, 2, "uniform", both_versions=True)
    world.paths.handle_deadline(NOW)
    assert len(world.circuits.opened[-1].hops) == 2


def test_a_taken_over_path_that_cannot_be_had_is_told_and_stays_blocked(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    path = world.request()
    world.paths.handle_deadline(NOW)
    now = fail(world, path, NOW)
    assert isinstance(path.error, CircuitTimedOut)
    assert world.kill_switch.protected == {BOB}
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(path.circuit, now + 60)
    assert (path.state, path.error) == (PathState.OPEN, None)


def test_a_path_whose_client_left_stays_blocked_even_if_no_circuit_can_be_opened(world):
    path = world.request()
    world.paths.disown(path.number)
    now = NOW
    for _ in range(10):
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    assert world.kill_switch.protected == {BOB}
    assert path.state is PathState.REBUILDING


def test_all_destinations_of_a_request_are_protected_before_the_first_circuit():
    world = World(exits_for_both())
    protected_at = []
    begin = world.circuits.anonymous_connection
    world.circuits.anonymous_connection = lambda *arguments: (
        protected_at.append(set(world.kill_switch.protected)),
        begin(*arguments),
    )[1]
    paths = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    assert [path.destination for path in paths] == [BOB, ALICE]
    assert protected_at == [{BOB, ALICE}] * 2


def terms(destination, **options):
    return PathTerms(destination, 3, "uniform", **options)


@pytest.mark.parametrize("trouble", ["no path", "protect", "limit"])
def test_a_request_of_several_that_cannot_begin_leaves_nothing(trouble):
    world = World(
        exits_for_both() if trouble != "no path" else [mix(1), mix(2), mix(3, exits=True)]
    )
    begin = world.circuits.anonymous_connection

    def second_refused(path, destination, now):
        if world.circuits.opened:
            raise LimitReached("this node has as many circuits as it may open")
        return begin(path, destination, now)

    if trouble == "limit":
        world.circuits.anonymous_connection = second_refused
    else:
        world.kill_switch.refuse.add(trouble)
    with pytest.raises((NoSuitablePath, BackendError, LimitReached)):
        world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())
    assert world.circuits.closed == list(range(1, len(world.circuits.opened) + 1))


def test_of_a_request_that_is_served_in_part_everything_stays_blocked():
    world = World(exits_for_both())
    bob, alice = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    now = fail(world, alice, NOW)
    assert world.kill_switch.protected == {BOB, ALICE}, "the other one may still be opened"
    world.open(bob.circuit, now)
    for _ in range(6):
        world.paths.handle_deadline(world.paths.next_deadline())
        world.paths.handle(CircuitFailed(alice.circuit, CircuitTimedOut("late")), now)
    assert world.kill_switch.protected == {BOB, ALICE}
    assert (bob.state, alice.state) == (PathState.OPEN, PathState.REBUILDING)


def test_of_a_request_that_is_not_served_at_all_nothing_remains():
    world = World(exits_for_both())
    bob, alice = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    now = fail(world, alice, NOW)
    fail(world, bob, now)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())


def test_both_families_block_the_other_version_until_the_last_such_path_ends(world):
    block = set(BLOCKED_FAMILY[6])
    carol = ip_network("203.0.114.11/32")
    first, second = world.paths.open_paths(
        [terms(BOB, both_versions=True), terms(carol, both_versions=True)], NOW
    )
    assert world.kill_switch.protected == {BOB, carol} | block
    world.paths.close(first.number, NOW)
    assert world.kill_switch.protected == {carol} | block
    world.paths.close(second.number, NOW)
    assert not world.kill_switch.protected


def test_a_blocked_version_does_not_release_the_destination_of_a_path():
    world = World(exits_for_both())
    own = BLOCKED_FAMILY[4][1]  # a path may lead to a prefix that blocks as well
    blocking, path = world.paths.open_paths([terms(ALICE, both_versions=True), terms(own)], NOW)
    world.paths.close(blocking.number, NOW)
    assert world.kill_switch.protected == {own}
    world.paths.close(path.number, NOW)
    assert not world.kill_switch.protected


def test_a_version_that_was_left_blocked_stays_so_until_it_is_released(world):
    world.paths.adopt_all([], NOW, blocked=[6])
    assert world.kill_switch.protected == set(BLOCKED_FAMILY[6])
    world.kill_switch.refuse.add("release")
    with pytest.raises(BackendError):
        world.paths.release_left()
    assert world.paths.left_blocked == {6}
    world.kill_switch.refuse.clear()
    world.paths.release_left()
    assert (world.kill_switch.protected, world.paths.left_blocked) == (set(), frozenset())


def test_more_left_destinations_than_paths_stay_protected_and_are_counted(world):
    left = [terms(ip_network(f"203.0.{n}.1/32")) for n in range(MAX_PATHS)]
    assert world.paths.adopt_all([*left, terms(BOB)], NOW) == 1
    assert len(world.paths.all()) == MAX_PATHS
    assert BOB in world.kill_switch.protected


def test_the_revision_tells_of_every_change_of_the_terms(world):
    seen = [world.paths.revision]

    def changed():
        seen.append(world.paths.revision)
        return seen[-1] != seen[-2]

    path = world.request()
    assert changed()
    world.open(path.circuit)
    world.paths.handle(CircuitLost(path.circuit, LOST), NOW)
    assert not changed()
    world.paths.disown(path.number)
    world.paths.open_paths([PathTerms(BOB, 2, "uniform")], NOW)
    assert changed()
    assert world.paths.all_terms() == [PathTerms(BOB, 2, "uniform")]
    world.paths.close(BOB, NOW)
    assert changed()
    assert world.paths.all_terms() == []


def test_simultaneous_requests_are_blocked_by_one_change_before_any_circuit():
    world = World(exits_for_both())
    changes, protect = [], world.kill_switch.protect
    world.kill_switch.protect = lambda *prefixes: (
        changes.append(set(prefixes)),
        protect(*prefixes),
    )
    begin = world.circuits.anonymous_connection
    blocked_at = []
    world.circuits.anonymous_connection = lambda *arguments: (
        blocked_at.append(set(world.kill_switch.protected)),
        begin(*arguments),
    )[1]
    bob, alice = world.paths.open_each([[terms(BOB)], [terms(ALICE)]], NOW)
    assert changes == [{BOB, ALICE}]
    assert blocked_at == [{BOB, ALICE}] * 2
    assert [bob[0].destination, alice[0].destination] == [BOB, ALICE]
    assert bob[0].companions == bob, "each request succeeds or fails by itself"


def test_of_simultaneous_requests_each_fails_by_itself():
    world = World(exits_for_both())
    protect = world.kill_switch.protect

    def refuse_alice(*prefixes):
        if ALICE in prefixes:
            raise BackendError("the kernel refused.")
        protect(*prefixes)

    world.kill_switch.protect = refuse_alice
    bob, again, alice = world.paths.open_each([[terms(BOB)], [terms(BOB)], [terms(ALICE)]], NOW)
    assert [path.destination for path in bob] == [BOB]
    assert isinstance(again, ConfigurationError)
    assert isinstance(alice, BackendError)
    assert [path.destination for path in world.paths.all()] == [BOB]


def test_one_of_simultaneous_requests_takes_a_path_over():
    world = World(exits_for_both())
    (path,) = world.paths.open_paths([terms(BOB)], NOW)
    world.open(path.circuit)
    world.paths.disown(path.number)
    taken, refused = world.paths.open_each([[terms(BOB)], [terms(BOB)]], NOW)
    assert taken == [path]
    assert isinstance(refused, ConfigurationError)
    assert path.held


def both_opened(world):
    bob, alice = (paths[0] for paths in world.paths.open_each([[terms(BOB)], [terms(ALICE)]], NOW))
    inner = (VC, InnerAddress(bytes([0xFD, *bytes(15)])))
    opened = [CircuitOpened(path.circuit, inner, path.destination) for path in (bob, alice)]
    return bob, alice, opened


def test_circuits_that_open_together_are_carried_by_one_change():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    world.paths.handle_all(opened, NOW)
    assert [set(change) for change in world.kill_switch.changes] == [{BOB, ALICE}]
    assert (bob.state, alice.state) == (PathState.OPEN, PathState.OPEN)
    world.paths.close_all(NOW)
    assert world.kill_switch.carried == {}


def test_a_refused_change_for_several_circuits_is_repeated_for_each():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    carry = world.kill_switch.carry

    def refuse_alice(*carried):
        if ALICE in dict(carried):
            raise BackendError("the kernel refused.")
        carry(*carried)

    world.kill_switch.carry = refuse_alice
    world.paths.handle_all(opened, NOW)
    assert (bob.state, set(world.kill_switch.carried)) == (PathState.OPEN, {BOB})
    assert alice.state is not PathState.OPEN


def test_a_circuit_that_is_lost_as_it_opens_leaves_nothing_carried():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    world.paths.handle_all([CircuitLost(alice.circuit, CircuitEnd.TORN_DOWN), *opened], NOW)
    assert set(world.kill_switch.carried) == {BOB}
    assert ALICE in world.kill_switch.protected
    assert (bob.state, alice.circuit) == (PathState.OPEN, None)
