"""Failures of a path are logged with their reason at the default level, and noted for the user."""

import logging
from random import Random

import pytest
from requested_paths import NOW, World, mix

from overlay.addresses import Endpoint
from overlay.apm.events import CircuitEnd, CircuitFailed, CircuitLost, CircuitMoved, CircuitStandsBy
from overlay.errors import CircuitRefused, CircuitTimedOut, PathError
from overlay.node.bootstrap_report import BootstrapReport
from overlay.node.reports import path_report
from overlay.node.shells.source_kill_switch import UnprotectedDestinations
from overlay.paths.requested_path import PathState
from overlay.paths.standby_keeper import StandbyKeeper

LOST = CircuitLost(1, CircuitEnd.UNANSWERED, silent_hop=2)


@pytest.fixture
def logged(caplog):
    """What the log says at the default level."""
    caplog.set_level(logging.WARNING, "overlay")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def world():
    return World([mix(n) for n in range(1, 6)] + [mix(6, exits=True), mix(7, exits=True)])


def report(path, now):
    nothing = UnprotectedDestinations(frozenset(), "")
    return path_report(path, None, others=(), exposure=nothing, now=now, mtu=1280)


def test_lost_path_says_why_until_it_is_open_again(world, logged):
    path = world.request()
    world.open(1)
    assert logged() == []
    world.paths.handle(LOST, NOW + 60)
    told = report(path, NOW + 60)
    assert told.trouble == (
        "the last circuit ended: the exit does not answer (hop 2 of 3 is silent)"
    )
    assert (told.state, told.next_try_s) == ("rebuilding", 0.01)
    world.paths.handle_deadline(NOW + 61)
    assert report(path, NOW + 61).next_try_s is None
    world.open(2, NOW + 62)
    assert (path.state, path.trouble) == (PathState.OPEN, "")
    assert logged() == [
        "path.lost path=1 circuit=1 reason=unanswered silent_hop=2",
        "path.open_again path=1 circuit=2",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            CircuitRefused("hop 2 of 3 refused the circuit: full.", hop=2, reason="LIMIT"),
            "path.no_circuit path=1 cause=CircuitRefused attempt=1 hop=2 reason=limit",
        ),
        (
            CircuitRefused("hop 2 refused.", hop=2, reason="192.0.2.7"),
            "path.no_circuit path=1 cause=CircuitRefused attempt=1 hop=2",
        ),
        (
            CircuitTimedOut("hop 1 did not answer.", silent_hop=1),
            "path.no_circuit path=1 cause=CircuitTimedOut attempt=1 silent_hop=1",
        ),
        (
            CircuitTimedOut("the exit did not confirm."),
            "path.no_circuit path=1 cause=CircuitTimedOut attempt=1",
        ),
        (PathError("192.0.2.7 said no."), "path.no_circuit path=1 cause=PathError attempt=1"),
    ],
)
def test_circuit_that_cannot_be_had_is_logged_by_position(world, logged, error, line):
    path = world.request()
    world.paths.handle(CircuitFailed(1, error), NOW + 1)
    assert logged() == [line]
    told = report(path, NOW + 1)
    assert (told.trouble, told.attempts) == (str(error).rstrip("."), 1)


def test_takeover_by_the_standby_is_logged_and_counted(logged):
    class Circuits:
        opened = 0

        def anonymous_connection(self, path, destination, now):
            self.opened += 1
            return self.opened

        def stand_by(self, circuit, path, now):
            return self.anonymous_connection(path, None, now)

        def close(self, circuit, now):
            pass

    circuits = Circuits()
    world = World(
        [*(mix(n) for n in range(1, 8)), mix(9, exits=True)],
        circuits=circuits,
        keeper=lambda choice: StandbyKeeper(circuits, choice, Random(1)),
    )
    path = world.request()
    world.open(1)
    assert report(path, NOW).standby_ready is False
    world.paths.handle_deadline(NOW + 2)
    world.paths.handle(CircuitStandsBy(2), NOW + 3)
    assert report(path, NOW + 3).standby_ready is True
    world.paths.handle(CircuitMoved(1, 2, CircuitEnd.UNANSWERED, silent_hop=1), NOW + 9)
    told = report(path, NOW + 9)
    assert (told.state, told.takeovers, told.standby_ready) == ("open", 1, False)
    assert logged() == ["path.standby_took_over path=1 circuit=1 reason=unanswered silent_hop=1"]


def test_each_silent_bootstrap_endpoint_is_logged_once_and_so_is_the_joining(logged):
    bootstrap = BootstrapReport()
    bootstrap.joined(1)
    for _ in range(3):
        bootstrap.silent(Endpoint("192.0.2.7", 4500), 0)
    bootstrap.silent(Endpoint("192.0.2.8", 4500), 5)
    bootstrap.joined(2)
    assert logged() == [
        "bootstrap.silent endpoints=1 other_network=0",
        "bootstrap.silent endpoints=2 other_network=5",
        "bootstrap.joined contacts=2",
    ]
