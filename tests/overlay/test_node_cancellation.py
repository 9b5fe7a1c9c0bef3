"""Cancelled at any step, a node leaves no task, descriptor, device, lock or socket file.

It leaves the destinations blocked that it was asked to anonymise, and nothing else.

The program's own tasks are trio's to prove: ``trio.run`` returns only when none is left.
"""

import ipaddress

import pytest
import trio
from loopback_overlay import CancelAfter, cast, open_descriptors, run, running, until

from overlay.control.client import ControlClient
from overlay.control.service import OpenPathsRequest
from overlay.dht.topology_store import TopologyStore
from overlay.node import run_node
from overlay.system.udp import UdpSocket

BOB = ipaddress.ip_network("203.0.113.10/32")


@pytest.fixture(autouse=True)
def nothing_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


async def running_with_socket(participant):
    await run_node(participant.configuration, participant.identity, host=participant.host)


def assert_can_start_again(participant):
    """Port, file lock and control socket are free."""
    UdpSocket.open(participant.endpoint).close()
    path = participant.directory / "topology.sqlite"
    if path.exists():
        TopologyStore(path, "loopback").close()
    assert not participant.control_socket.exists()
    assert not participant.host.open_devices()
    assert not participant.host.kill_switch_taken
    assert not participant.host.forwarding


def cancelled_after(count, body):
    """Run ``body`` in a scope that is cancelled at its ``count``-th step; return if it was."""
    instrument = CancelAfter(count)

    async def program():
        with trio.CancelScope() as instrument.scope:
            await body()
        instrument.scope = None

    run(program, instruments=[instrument])
    return instrument.fired


@pytest.mark.slow
@pytest.mark.parametrize("count", [*range(1, 40), 60, 100, 150])
def test_a_relay_that_is_cancelled_at_any_step_leaves_nothing(tmp_path, count):
    first, second = cast(tmp_path, relays=2)

    async def body():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running_with_socket, first)
            nursery.start_soon(running_with_socket, second)

    assert cancelled_after(count, body)
    assert_can_start_again(first)
    assert_can_start_again(second)


@pytest.mark.slow
def test_a_source_that_is_cancelled_at_any_step_of_opening_leaves_the_destination_blocked(tmp_path):
    *others, alice = participants = cast(tmp_path, relays=0, exits=2, alice=True)
    outcomes = []

    async def program():
        async with running(others):
            for count in [*range(1, 25), *range(25, 200, 25)]:
                outcomes.append(await opened_and_cancelled(count))
                assert_can_start_again(alice)

    async def opened_and_cancelled(count):
        async with alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            entered = False
            instrument = CancelAfter(count)
            with trio.CancelScope() as scope:
                instrument.scope = scope
                trio.lowlevel.add_instrument(instrument)
                async with node.anonymous_path(BOB, hops=2):
                    entered = True
            trio.lowlevel.remove_instrument(instrument)
            # Either nothing was begun, or the destination is blocked and its path is listed.
            blocked = {ipaddress.ip_network(path.destination) for path in node.service.paths()}
            assert alice.host.blocked == blocked
            if blocked:
                alice.host.released.clear()
                async with node.anonymous_path(BOB, hops=2):
                    assert alice.host.released == [], "the next asker takes it over"
            assert (alice.host.blocked, node.service.paths()) == (set(), [])
            return "open" if entered else "cancelled" if blocked else "not begun"

    run(program)
    assert {"open", "cancelled"} <= set(outcomes)
    assert not any(p.host.open_devices() for p in participants)


def test_a_node_that_is_cancelled_with_an_open_path_keeps_the_destination_blocked(tmp_path):
    *others, alice = cast(tmp_path, relays=0, exits=1, alice=True)

    async def program():
        async with running(others):
            with trio.CancelScope() as scope:
                async with alice.node() as node, trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    await until(lambda: node.service.status().mix_nodes == 1)
                    await node.service.open_paths(OpenPathsRequest((BOB,), 1))
                    assert alice.host.blocked == {BOB}
                    scope.cancel()
            assert alice.host.blocked == {BOB}
            assert_can_start_again(alice)

    run(program)


def test_a_node_stops_when_its_owner_says_so(tmp_path):
    (only,) = cast(tmp_path, relays=1)

    def ask():
        with ControlClient(only.control_socket) as client:
            assert client.status().roles == ("relay",)
            client.stop()

    async def program():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running_with_socket, only)
            while not only.control_socket.exists():
                await trio.sleep(0)
            await trio.to_thread.run_sync(ask)

    trio.run(program)
    assert_can_start_again(only)
