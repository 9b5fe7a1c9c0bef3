# ruff: noqa: F811 - fixtures of another module
"""Whole nodes whose host refuses a change, loses a device or cannot be an exit."""

import contextlib
import ipaddress
import logging
import resource
from dataclasses import replace
from functools import partial

import pytest
import trio
from loopback_overlay import GATEWAY, cast, run, running, until
from loopback_world import BOB, REQUEST, nothing_left, packet_to_bob, states, world  # noqa: F401 - fixtures

from overlay.cli.reports import status_text
from overlay.control.service import StopReport
from overlay.errors import (
    BackendError,
    ConfigurationError,
    PathError,
)
from overlay.node import run_node
from overlay.system.exit_problems import ExitProblem
from overlay.system.host_networks import UsedNetwork


def counter(world, name):
    return world.alice.service.status().counters.get(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation", ["open_tun", "open_kill_switch", "protect", "add_address", "carry"]
)
def test_what_the_host_refuses_fails_the_path_and_not_the_node(world, operation):
    world.host.refuse.add(operation)

    async def scenario():
        with pytest.raises(BackendError, match=operation):
            await world.alice.service.open_paths(REQUEST)
        assert (world.host.blocked, world.host.addresses, states(world)) == (set(), set(), [])
        world.host.refuse.clear()
        await world.alice.service.open_paths(REQUEST)
        assert set(world.host.carried) == {BOB}

    world.play(scenario)


@pytest.mark.slow
def test_an_address_of_the_hosts_networks_is_not_taken_and_other_circuits_are_tried(world):
    lan = [UsedNetwork(ipaddress.ip_network("100.64.0.0/10"), 1, "a route")]

    async def scenario():
        world.host.networks = lan
        with pytest.raises(PathError, match="in use here already; name an exit"):
            await world.alice.service.open_paths(REQUEST)
        assert not world.host.blocked
        assert not world.host.addresses
        world.host.networks = lan[:0]
        world.host.refuse.add("used_networks")  # what cannot be checked is not taken
        with pytest.raises(PathError, match="in use here already"):
            await world.alice.service.open_paths(REQUEST)
        world.host.refuse.clear()
        async with world.alice.anonymous_path(BOB, hops=3):
            assert world.host.blocked == {BOB}

    world.play(scenario)


@pytest.mark.slow
def test_a_kill_switch_that_cannot_be_ended_is_told_and_tried_again(world):
    async def scenario():
        service = world.alice.service
        [report] = await service.open_paths(REQUEST)
        world.host.refuse |= {"release", "uncarry"}
        for _ in range(2):
            with pytest.raises(BackendError, match="stays blocked for now: release failed"):
                await service.close_path(report.number)
            assert (world.host.blocked, states(world)) == ({BOB}, ["closing"])
        with pytest.raises(ConfigurationError, match="serves this destination already"):
            await service.open_paths(REQUEST)
        world.host.refuse.clear()
        await until(lambda: states(world) == [])
        assert world.host.blocked == set()
        assert counter(world, "kill_switch_changes_refused") >= 1

    world.play(scenario)


@pytest.mark.slow
def test_an_exit_tells_of_connections_that_it_could_not_forget(world):
    async def scenario():
        for each in world.participants:
            each.host.refuse.add("forget_connections")
        [report] = await world.alice.service.open_paths(REQUEST)
        await world.alice.service.close_path(report.number)
        name = "inner_addresses_not_forgotten"
        await until(lambda: any(n.service.status().counters.get(name) for n in world.nodes))
        [told] = [n.service.status() for n in world.nodes if name in n.service.status().counters]
        assert "exit" in told.roles
        assert name in status_text(told)

    world.play(scenario)


@pytest.mark.slow
def test_a_node_stops_even_if_a_kill_switch_cannot_be_ended(world, caplog):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        world.host.refuse.add("release")
        assert await world.alice.service.leave(release=True) == StopReport(1, 0, 0)

    world.play(scenario)
    assert world.host.blocked == {BOB}
    assert [r.message for r in caplog.records] == ["kill_switch.kept destinations=1"]


@pytest.mark.slow
def test_a_removed_tun_device_is_replaced_and_paths_are_built_anew(world):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        (device,) = world.host.open_devices("anon")
        device.remove()
        await until(lambda: not device.open, step_s=0)
        assert (world.host.blocked, world.host.carried) == ({BOB}, {})
        await until(lambda: states(world) == ["open"])
        (another,) = world.host.open_devices("anon")
        assert world.host.carried[BOB][0] == another.name
        another.from_kernel(packet_to_bob(world.host))
        exits = [d for p in world.participants for d in p.host.open_devices("exit")]
        await until(lambda: any(each.written for each in exits))

    world.play(scenario)


@pytest.mark.slow
def test_a_flushed_routing_table_is_filled_again_with_the_next_circuit(world):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        world.host.blocked.clear()
        world.host.open_devices("anon")[0].remove()
        await until(lambda: not world.host.carried, step_s=0)
        await until(lambda: states(world) == ["open"])
        assert world.host.blocked == {BOB}

    world.play(scenario)


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond a page, as on a disk without room (setrlimit(2): EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_stops_no_node(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second, newcomer = cast(tmp_path)

    async def program():
        async with running([first, second]) as (node, _), newcomer.node():
            failures = lambda: node.service.status().counters.get("periodic_tasks_failed", 0)  # noqa: E731 - read often
            with full_disk():
                await until(lambda: failures() >= 2, step_s=1)
                assert node.service.status().mix_nodes == 2
            await until(
                lambda: messages().count("periodic_task.recovered task=save") == 3, step_s=1
            )

    def messages():
        return [record.message for record in caplog.records]

    run(program)
    # Three nodes, each once, however often it failed.
    assert messages().count("periodic_task.failing task=save cause=BackendError") == 3
    assert sum(message.startswith("periodic_task.") for message in messages()) == 6


@pytest.mark.slow
def test_an_exit_that_cannot_forward_withdraws_tells_its_circuits_and_comes_back(world, caplog):
    async def scenario():
        exits = {n.service.status().node_id: n for n in world.nodes[3:5]}
        async with world.alice.anonymous_path(BOB, hops=1):
            (path,) = world.alice.service.paths()
            used = path.hops[0].node_id
            (host,) = [p.host for p in world.participants[3:5] if p.identity.node_id.hex() == used]
            host.passing = frozenset({6})
            status = exits[used].service.status
            await until(lambda: status().exit_problems)
            assert "refuses to forward over IPv4" in status().exit_problems[0]
            assert "iptables -I FORWARD" in status_text(status())
            assert status().circuits_exit == 1  # one failed review ends no circuit
            await until(lambda: status().circuits_exit == 0)
            assert status().roles == ("exit", "relay")  # over IPv6 it still is one

            def elsewhere():
                (path,) = world.alice.service.paths()
                return path.state == "open" and path.hops[0].node_id not in (used, None)

            await until(elsewhere, within_s=20)
            host.passing = frozenset()
            await until(lambda: status().roles == ("relay",))
            await until(lambda: world.alice.service.status().exits == 1)
            host.passing = frozenset({4, 6})
            await until(lambda: status().roles == ("exit", "relay"))
            await until(lambda: world.alice.service.status().exits == 2)
            assert not status().exit_problems

    world.play(scenario)
    assert "exit.withdrawn version=4 cause=not_forwarded" in caplog.messages


def test_an_exit_whose_pool_is_in_use_does_not_start_and_says_what_to_write(tmp_path):
    (only,) = cast(tmp_path, relays=0, exits=1)
    cause = '[exit] inner_ipv4 = "100.64.0.0/10" overlaps 100.64.7.0/24, a route of this host'
    only.host.problems = [ExitProblem(4, "pool_in_use", cause, "write another", True)]

    async def program():
        async with only.node():
            pytest.fail("its pool is in use")

    with pytest.raises(ConfigurationError, match=r"overlaps 100.64.7.0/24.*; write another\."):
        run(program)


def test_an_exit_without_a_way_out_is_a_relay_until_it_has_one(tmp_path):
    (only,) = cast(tmp_path, relays=0, exits=1)
    only.host.problems = [ExitProblem(v, "no_default_route", "no route", "add one") for v in (4, 6)]

    async def program():
        async with only.node() as node:
            assert node.service.status().roles == ("relay",)
            only.host.problems = []
            await until(lambda: node.service.status().roles == ("exit", "relay"))

    run(program)


def test_an_exit_keeps_circuits_from_its_public_address_and_its_router(tmp_path):
    (only,) = cast(tmp_path, relays=0, exits=1)

    async def program():
        async with only.node():
            await until(lambda: set(only.host.refused) == set(map(ipaddress.ip_network, own)))

    own = [only.endpoint.packed, GATEWAY]

    run(program)


def test_an_exit_whose_host_refuses_does_not_start(tmp_path):
    (only,) = cast(tmp_path, relays=0, exits=1)
    only.host.refuse.add("open_exit")

    async def program():
        async with only.node():
            pytest.fail("it has no way out")

    with pytest.raises(BackendError, match="open_exit"):
        run(program)
    assert not only.host.open_devices()


def test_a_node_that_cannot_have_its_port_leaves_the_other_one_alone(tmp_path):
    (only,) = cast(tmp_path, relays=1)

    async def program():
        async with only.node() as first:
            with pytest.raises(BackendError, match="another program has this port"):
                async with only.node():
                    pytest.fail("the port is taken")
            assert first.service.status().uptime_s >= 0

    run(program)


def test_a_control_socket_that_a_living_node_has_is_one_plain_error(tmp_path):
    first, second = cast(tmp_path, relays=2)
    second.host.blocked.add(BOB)
    settings = replace(second.configuration.node, control_socket=first.control_socket)
    configuration = replace(second.configuration, node=settings)

    async def program():
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(run_node, host=first.host), *parts(first))
            with pytest.raises(ConfigurationError, match="a node already runs with this control"):
                await run_node(configuration, second.identity, host=second.host)
            nursery.cancel_scope.cancel()

    def parts(participant):
        return participant.configuration, participant.identity

    run(program)
    assert not first.control_socket.exists()
    # It did not stop because anybody wanted it to: what it had adopted stays protected.
    assert second.host.blocked == {BOB}
