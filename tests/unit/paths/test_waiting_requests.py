# ruff: noqa: F811 - fixtures of another module
"""Requests that wait until the node knows enough Mix-nodes."""

import math
from ipaddress import ip_network

import pytest
from requested_paths import (
    BOB,
    NOW,
    World,
    mix,
    world,  # noqa: F401 - fixtures
)

from overlay.apm.events import CircuitFailed
from overlay.errors import CircuitTimedOut, LimitReached, NoSuitablePath
from overlay.paths.requested_path import PathState, PathTerms

ALICE = ip_network("2a00:77::10/128")


def terms(destination):
    return PathTerms(destination, 3, "uniform")


def exits_for_both():
    """Mix-nodes with exits for both IP versions."""
    return [mix(n) for n in range(1, 6)] + [mix(n, exits=True, both=True) for n in (6, 7)]


def test_a_request_waits_behind_the_kill_switch_until_all_its_paths_are_possible():
    world = World([mix(1), mix(2), mix(3, exits=True)])  # no exit for IPv6
    paths = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW, patient_until=NOW + 20)
    assert world.kill_switch.protected == {BOB, ALICE}
    world.paths.handle_deadline(world.paths.next_deadline())
    assert (world.circuits.opened, [path.settled for path in paths]) == ([], [False, False])
    assert world.table.add(mix(4, exits=True, both=True), NOW)
    now = world.paths.next_deadline()
    assert now < NOW + 1
    world.paths.handle_deadline(now)
    assert [path.circuit for path in paths] == [1, 2]
    assert world.paths.first_tries == 2
    assert world.paths.next_deadline() == math.inf


def test_a_request_that_waited_in_vain_leaves_nothing(world):
    [path] = world.paths.open_paths([terms(ALICE)], NOW, patient_until=NOW + 20)
    while (now := world.paths.next_deadline()) < NOW + 20:
        world.paths.handle_deadline(now)
    assert not path.settled
    world.paths.handle_deadline(now)
    assert path.settled
    assert isinstance(path.error, NoSuitablePath)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())
    assert world.paths.next_deadline() == math.inf


def test_a_waiting_request_that_gets_no_circuit_leaves_nothing():
    world = World([mix(1), mix(2)])
    paths = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW, patient_until=NOW + 20)
    for descriptor in exits_for_both():
        world.table.add(descriptor, NOW)
    world.circuits.full = True
    world.paths.handle_deadline(world.paths.next_deadline())
    assert all(isinstance(path.error, LimitReached) for path in paths)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())


@pytest.mark.parametrize("end", ["disown", "close"])
def test_a_waiting_path_can_lose_its_owner_or_end(end):
    world = World([mix(1), mix(2)])
    bob, alice = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW, patient_until=NOW + 20)
    if end == "disown":
        world.paths.disown(bob.number)
        assert (bob.state, world.kill_switch.protected) == (PathState.REBUILDING, {BOB, ALICE})
    else:
        world.paths.close(bob.number, NOW)
        assert (bob.settled, world.kill_switch.protected) == (True, {ALICE})
    for descriptor in exits_for_both():
        world.table.add(descriptor, NOW)
    world.paths.handle_deadline(world.paths.next_deadline())
    assert alice.circuit is not None
    assert (bob.circuit is not None) == (end == "disown")


def test_a_failed_circuit_without_another_path_is_no_failure_while_a_request_is_patient():
    """Until the node has learned of enough Mix-nodes, the destination stays blocked."""
    world = World([mix(1), mix(2), mix(3, exits=True)])
    [path] = world.paths.open_paths([terms(BOB)], NOW, patient_until=NOW + 20)
    world.table.remove(world.circuits.opened[0].hops[-1].node_id)
    world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), NOW + 1)
    for _ in range(8):
        world.paths.handle_deadline(world.paths.next_deadline())
    assert not path.settled
    assert world.kill_switch.protected == {BOB}
    assert world.table.add(mix(4, exits=True), NOW)
    world.paths.handle_deadline(world.paths.next_deadline())
    assert path.circuit is not None
