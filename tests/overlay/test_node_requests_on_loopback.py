# ruff: noqa: F811 - fixtures of another module
"""Requests for paths at whole nodes: refused, shared, handed over and closed."""

import ipaddress

import pytest
import trio
from loopback_overlay import OWN_ADDRESS, cast, run, until
from loopback_world import BOB, REQUEST, nothing_left, states, world  # noqa: F401 - fixtures

from overlay.control.service import OpenPathsRequest
from overlay.errors import (
    ConfigurationError,
    NoSuitablePath,
    PathError,
)


@pytest.mark.slow
def test_a_path_that_cannot_be_had_raises_its_own_error_and_leaves_nothing_blocked(world):
    async def scenario():
        with pytest.raises(NoSuitablePath, match="whose policy refuses the destination"):
            async with world.alice.anonymous_path(ipaddress.ip_network("198.51.100.1/32")):
                pytest.fail("there is no such path")
        assert (world.host.blocked, world.host.carried, states(world)) == (set(), {}, [])

    world.play(scenario)


@pytest.mark.parametrize(
    ("destination", "sentence"),
    [
        ("0.0.0.0/1", "contains all of 0.0.0.0/8"),
        ("10.0.0.0/8", "contains all of 10.0.0.0/8"),
        ("::/0", "contains all of ::/127"),
        ("fd00::/8", "overlaps fd6d:6978::/32"),
        ("fd6d:6978::1/128", "is a node of the overlay"),
        ("fd63:6972:1::/48", "overlaps fd63:6972::/32"),
        ("100.64.3.0/24", "overlaps 100.64.0.0/10"),
        (str(ipaddress.ip_address(OWN_ADDRESS)), "an address of this host"),
        ("192.0.2.0/24", "an address of this host"),
    ],
)
def test_destinations_that_host_and_overlay_need_are_refused(tmp_path, destination, sentence):
    (only,) = cast(tmp_path, relays=1)

    async def program():
        async with only.node() as node:
            request = OpenPathsRequest((ipaddress.ip_network(destination),))
            with pytest.raises(ConfigurationError, match=sentence):
                await node.service.open_paths(request)
            assert node.service.paths() == []

    run(program)
    assert not only.host.devices


@pytest.mark.slow
def test_a_part_of_a_carried_prefix_may_have_a_path_of_its_own(world):
    wide = ipaddress.ip_network("203.0.113.0/24")

    async def scenario():
        service = world.alice.service
        async with world.alice.anonymous_path(wide), world.alice.anonymous_path(BOB):
            assert set(world.host.carried) == {wide, BOB}
            with pytest.raises(ConfigurationError, match="serves this destination already"):
                await service.open_paths(REQUEST)
        assert world.host.blocked == set()

    world.play(scenario)


@pytest.mark.slow
def test_a_peers_own_address_may_be_a_destination(world):
    """The node's datagrams to it carry a mark; here: nothing in the cores minds."""

    async def scenario():
        peer = ipaddress.ip_network("203.0.113.200/32")
        await world.alice.service.open_paths(OpenPathsRequest((peer,), 1))
        assert set(world.host.carried) == {peer}

    world.play(scenario)


@pytest.mark.slow
def test_a_path_whose_client_disconnects_stays_blocked_and_another_client_can_take_it(world):
    async def scenario():
        with trio.move_on_after(0.0) as impatient:
            await world.alice.service.open_paths(REQUEST)
        assert impatient.cancelled_caught
        assert (world.host.blocked, states(world)) == ({BOB}, ["rebuilding"])
        [report] = await world.alice.service.open_paths(REQUEST)
        assert (report.number, report.state, world.host.released) == (1, "open", [])

    world.play(scenario)


@pytest.mark.slow
def test_a_client_that_waits_for_a_path_is_told_when_another_closes_it(world):
    async def scenario():
        service = world.alice.service

        async def wait_in_vain():
            with pytest.raises(PathError, match="closed while it was being opened"):
                await service.open_paths(REQUEST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_vain)
            await until(lambda: states(world) == ["opening"], step_s=0)
            assert await service.close_path(None) == 1
        with pytest.raises(ConfigurationError, match="there is no path 1"):
            await service.close_path(1)
        assert world.host.blocked == set()

    world.play(scenario)


@pytest.mark.slow
def test_a_path_can_be_closed_while_it_is_rebuilt(world):
    async def scenario():
        service = world.alice.service
        [report] = await service.open_paths(REQUEST)
        world.host.refuse.add("open_tun")
        world.host.open_devices("anon")[0].remove()
        await until(lambda: states(world) == ["rebuilding"], step_s=0)
        assert world.host.blocked == {BOB}
        await service.close_path(report.number)
        assert (world.host.blocked, states(world)) == (set(), [])

    world.play(scenario)
