"""Which standby circuit a path has, and when another one is asked for."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest
from requested_paths import BOB, NOW, VC, Circuits, World, mix

from overlay.apm.events import (
    CircuitClosed,
    CircuitEnd,
    CircuitFailed,
    CircuitLost,
    CircuitMoved,
    CircuitStandsBy,
)
from overlay.errors import PathError
from overlay.paths.requested_path import PathState, PathTerms
from overlay.paths.standby_keeper import StandbyKeeper


class StandbyCircuits(Circuits):
    def __init__(self):
        super().__init__()
        self.standing_by = {}

    def stand_by(self, circuit, path, now):
        number = self.anonymous_connection(path, BOB, now)
        self.standing_by[number] = circuit
        return number


@pytest.fixture
def world():
    relays = [mix(n) for n in range(1, 6)]
    return standby_world([*relays, mix(6, exits=True), mix(7, exits=True)])


def standby_world(mixes):
    circuits = StandbyCircuits()
    return World(mixes, circuits=circuits, keeper=lambda c: StandbyKeeper(circuits, c, Random(5)))


def open_path(world):
    path = world.request()
    world.open(1)
    return path


def due(world, seconds):
    world.paths.handle_deadline(NOW + seconds)


def test_an_open_path_gets_a_standby_over_other_relays_to_its_exit(world):
    path = open_path(world)
    assert NOW + 0.5 <= world.paths.next_deadline() <= NOW + 2
    due(world, 2)
    assert world.circuits.standing_by == {2: 1}
    first, second = world.circuits.opened
    assert first.exit == second.exit
    assert not set(first.hops[:-1]) & set(second.hops[:-1])
    assert not path.standby.ready
    world.paths.handle(CircuitStandsBy(2), NOW + 3)
    assert path.standby.ready


def test_a_standby_that_took_over_serves_the_path_without_a_step_of_the_kill_switch(world):
    path = open_path(world)
    due(world, 2)
    before = path.mix_path
    carried = dict(world.kill_switch.carried)
    moved = CircuitMoved(1, 2, CircuitEnd.UNANSWERED, silent_hop=2)
    world.paths.handle(moved, NOW + 5)
    assert (path.state, path.circuit, path.takeovers) == (PathState.OPEN, 2, 1)
    assert path.mix_path == world.circuits.opened[1]
    assert path.inner_addresses == (VC,)
    assert world.kill_switch.carried == carried
    due(world, 8)
    assert world.circuits.standing_by[3] == 2
    assert before.hops[1] not in world.circuits.opened[2].hops, "the silent hop is avoided"
    world.paths.close(BOB, NOW + 9)
    assert world.circuits.closed == [2]


def test_an_exit_that_keeps_silent_again_and_again_sees_few_new_relays(world):
    """Each takeover shows other relays; waits grow until circuits last again."""
    open_path(world)
    now, waits = NOW, []
    for number in range(1, 6):
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
        assert len(world.circuits.opened) == number + 1
        now += 1
        world.paths.handle(CircuitMoved(number, number + 1, CircuitEnd.UNANSWERED, 2), now)
        waits.append(world.paths.next_deadline() - now)
    assert waits[1:] == [5, 15, 60, 60]


def test_a_standby_that_took_over_after_long_is_followed_by_another_soon(world):
    open_path(world)
    due(world, 2)
    world.paths.handle(CircuitMoved(1, 2, CircuitEnd.UNANSWERED, 2), NOW + 400)
    assert 0.5 <= world.paths.next_deadline() - NOW - 400 <= 2


def test_a_standby_that_fails_or_is_lost_is_asked_for_again_with_longer_waits(world):
    path = open_path(world)
    due(world, 2)
    world.paths.handle(CircuitFailed(2, PathError("no")), NOW + 3)
    assert (path.state, path.circuit) == (PathState.OPEN, 1)
    assert world.paths.next_deadline() == NOW + 4
    due(world, 4)
    world.paths.handle(CircuitLost(3, CircuitEnd.UNANSWERED), NOW + 5)
    assert world.paths.next_deadline() == NOW + 10


def test_a_standby_that_is_closed_because_it_is_old_is_followed_by_another_at_once(world):
    path = open_path(world)
    due(world, 2)
    world.paths.handle(CircuitStandsBy(2), NOW + 3)
    world.paths.handle(CircuitClosed(2, CircuitEnd.EXPIRED), NOW + 400)
    assert not path.standby.ready
    due(world, 401)
    assert world.circuits.standing_by[3] == 1
    moved = CircuitMoved(1, 3, CircuitEnd.EXPIRED, silent_hop=None)
    world.paths.handle(moved, NOW + 403)
    assert (path.circuit, path.avoid) == (3, frozenset()), "no Mix-node was at fault"


def test_without_other_relays_the_path_goes_on_and_tries_again_a_minute_later():
    world = standby_world([mix(1), mix(2), mix(6, exits=True)])
    path = open_path(world)
    for _ in range(6):
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
        assert path.state is PathState.OPEN
    assert world.paths.next_deadline() == now + 60
    assert len(world.circuits.opened) == 1


def test_one_relay_more_gives_a_standby_that_avoids_one_of_those_in_use():
    world = standby_world([mix(1), mix(2), mix(3), mix(6, exits=True)])
    open_path(world)
    due(world, 2)
    first, second = world.circuits.opened
    assert len(set(first.hops[:-1]) & set(second.hops[:-1])) == 1
    assert first.exit == second.exit


@pytest.mark.parametrize("hops", [1, 2])
def test_paths_without_a_relay_to_choose_have_no_standby(world, hops):
    via = () if hops == 1 else (mix(1).node_id,)
    world.paths.open_paths([PathTerms(ip_network(BOB), hops, "uniform", via)], NOW)
    world.open(1)
    assert world.paths.next_deadline() > NOW + 1e6


def test_the_loss_of_the_circuit_forgets_the_standby(world):
    path = open_path(world)
    due(world, 2)
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED, silent_hop=3), NOW + 5)
    assert path.state is PathState.REBUILDING
    assert path.standby.circuit is None
    world.paths.handle(CircuitLost(2, CircuitEnd.UNANSWERED), NOW + 5)
    world.paths.handle_deadline(NOW + 6)
    assert path.circuit == 3
    assert world.circuits.opened[2].exit != world.circuits.opened[0].exit
