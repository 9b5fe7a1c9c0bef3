# ruff: noqa: F811 - fixtures of another module
"""Paths that are remembered, permanent or left by a dead program (docs/decisions/0037)."""

import ipaddress
import stat

import pytest
import trio
from loopback_overlay import FakeHost, run, running, until
from remembering_nodes import (  # noqa: F401 - fixtures
    BOB,
    CAROL,
    alice,
    file_of,
    open_again,
    others,
    remember,
    stored,
    with_settings,
)
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.control.service import OpenPathsRequest, StopReport
from overlay.errors import BackendError, ConfigurationError, PathError
from overlay.node import OverlayNode
from overlay.paths.ip_versions import BLOCKED_FAMILY

DAVE = ipaddress.ip_network("2001:db8:77::10/128")


def reboot(participant):
    """The kernel forgets everything; the disk does not."""
    participant.host = FakeHost()


async def carries(source, leaving):
    """Check that a packet which a program sends to BOB leaves at the exit."""
    _, inner = source.host.carried[BOB]
    packet = IP(src=str(ipaddress.ip_address(inner)), dst=str(BOB.network_address)) / UDP()
    (device,) = source.host.open_devices("anon")
    (exit_device,) = leaving.host.open_devices("exit")
    device.from_kernel(bytes(packet / Raw(b"hello bob")))
    await until(lambda: exit_device.written, within_s=20)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["kept", "rebooted"])
def test_the_restart_restores_paths_with_their_parameters(others, alice, kernel):
    via = tuple(each.identity.overlay_address for each in others)
    request = OpenPathsRequest((BOB,), 2, "explicit", via, both_versions=True)

    async def program():
        async with running(others):
            async with alice.node() as node:
                await until(lambda: node.service.status().mix_nodes == 2)
                await node.service.open_paths(request)
            if kernel == "rebooted":
                reboot(alice)
            async with alice.node() as node:
                block = set(BLOCKED_FAMILY[6])
                assert alice.host.blocked == {BOB} | block
                (report,) = await open_again(node)
                assert (report.strategy, len(report.hops)) == ("explicit", 2)
                assert node.service.status().blocked_versions == ("IPv6",)
                assert (report.both_versions, set(alice.host.carried)) == (True, {BOB})
                await carries(alice, others[-1])
                await node.service.close_path(BOB)
                assert alice.host.blocked == set()
                assert stored(alice) == []

    run(program)


@pytest.mark.slow
def test_the_file_is_private_and_follows_every_change(others, alice):
    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            assert not file_of(alice).exists(), "a node without paths writes none"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.service.open_paths, OpenPathsRequest((BOB,), 2))
                await until(lambda: file_of(alice).exists(), step_s=0)
                assert [p["destination"] for p in stored(alice)] == [str(BOB)]
                assert BOB in alice.host.blocked, "a path in the file is blocked before it is open"
            assert stat.S_IMODE(file_of(alice).stat().st_mode) == 0o600
            await node.service.close_path(1)
            assert stored(alice) == []
        assert [p.name for p in alice.directory.glob("*paths*")] == ["paths.json"]

    run(program)


def test_what_is_remembered_and_permanent_is_protected_before_anything_else(alice):
    """Here the start fails at its first step, the UDP socket, which another process has."""
    with_settings(alice, '[paths]\npermanent = ["203.0.113.11"]\nboth_versions = true\n')
    remember(alice, BOB)

    async def program():
        async with OverlayNode(alice.configuration, alice.identity, host=FakeHost()):
            with pytest.raises(BackendError, match="in use"):
                async with alice.node():
                    pytest.fail("the port is in use")

    run(program)
    assert alice.host.blocked == {BOB, CAROL} | set(BLOCKED_FAMILY[6])
    assert not alice.host.kill_switch_taken


@pytest.mark.slow
def test_a_permanent_path_opens_by_itself_and_returns_after_it_was_closed(others, alice):
    with_settings(alice, '[paths]\npermanent = ["203.0.113.10"]\n')

    async def program():
        async with running(others):
            async with alice.node() as node:
                (report,) = await open_again(node)
                assert report.permanent
                async with node.anonymous_path(BOB):
                    pass
                assert alice.host.blocked == {BOB}, "a program's scope does not end it"
                await node.service.close_path(1)
                assert alice.host.blocked == set()
            async with alice.node() as node:
                assert alice.host.blocked == {BOB}
                await open_again(node)
                assert await node.service.leave(release=True) == StopReport(0, 1, 1)

    run(program)


def test_permanent_paths_to_both_versions_leave_none_to_be_blocked(alice):
    with_settings(alice, f'[paths]\npermanent = ["{BOB}", "{DAVE}"]\nboth_versions = true\n')

    async def program():
        async with alice.node():
            assert alice.host.blocked == {BOB, DAVE}

    run(program)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["error", "cancelled"])
def test_a_program_that_died_runs_again_and_takes_over_what_it_left(others, alice, end):
    async def program():
        async with running(others):
            with pytest.raises(LookupError) if end == "error" else trio.CancelScope() as scope:
                async with alice.node() as node:
                    await until(lambda: node.service.status().mix_nodes == 2)
                    async with node.anonymous_path([BOB, CAROL], hops=2) as path:
                        assert [r.state for r in path.reports()] == ["open", "open"]
                        if end == "error":
                            raise LookupError
                        scope.cancel()
                        await trio.sleep_forever()
            assert alice.host.blocked == {BOB, CAROL}
            async with alice.node() as node:
                async with node.anonymous_path([BOB, CAROL], hops=2):
                    assert set(alice.host.carried) == {BOB, CAROL}
                    assert alice.host.released == []
                assert alice.host.blocked == set(), "left normally, the scope frees them"
            assert stored(alice) == []

    run(program)


def test_other_parameters_open_an_inherited_path_anew_behind_the_kill_switch(others, alice):
    alice.host.blocked.add(BOB)

    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            [report] = await node.service.open_paths(OpenPathsRequest((BOB,), 1))
            assert (report.number, len(report.hops)) == (1, 1)
            assert alice.host.released == []
            with pytest.raises(ConfigurationError, match="serves this destination already"):
                await node.service.open_paths(OpenPathsRequest((BOB,), 1))

    run(program)


def test_a_request_before_the_node_knows_mix_nodes_blocks_its_destination(others, alice):
    async def program():
        async with alice.node() as node:
            with trio.move_on_after(0.0) as hung_up:
                await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            assert hung_up.cancelled_caught
            assert alice.host.blocked == {BOB}, "it stays blocked without its client"
            async with others[0].node(), others[1].node():
                [report] = await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            assert (report.number, report.state) == (1, "open")

    run(program)


def test_a_node_that_stops_while_a_path_opens_leaves_it_blocked(others, alice):
    async def program():
        async with running(others):
            with trio.CancelScope() as scope:
                async with alice.node() as node:
                    await until(lambda: node.service.status().mix_nodes == 2)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(node.service.open_paths, OpenPathsRequest((BOB,), 2))
                        await until(lambda: alice.host.blocked, step_s=0)
                        scope.cancel()
            assert (alice.host.blocked, alice.host.released) == ({BOB}, [])
            async with alice.node() as node:
                await open_again(node)

    run(program)


def test_a_request_for_both_families_of_a_server_covers_both(others, alice):
    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            [one] = await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            assert "IPv6 addresses of the same server are not covered" in one.stays_open[0]
            await node.service.close_path(None)
            request = OpenPathsRequest((BOB, DAVE), 2, both_versions=True)
            reports = await node.service.open_paths(request)
            assert set(alice.host.carried) == {BOB, DAVE}
            assert alice.host.blocked == {BOB, DAVE}, "no version is left to be blocked"
            assert [report.both_versions for report in reports] == [False, False]
            await node.service.close_path(None)
            (report,) = await node.service.open_paths(
                OpenPathsRequest((DAVE,), 2, both_versions=True)
            )
            assert alice.host.blocked == {DAVE} | set(BLOCKED_FAMILY[4])
            assert "Local IPv4 addresses are not blocked." in report.stays_open
            await node.service.open_paths(OpenPathsRequest((BOB,), 2))  # the longest prefix wins
            assert set(alice.host.carried) == {BOB, DAVE}

    run(program)


@pytest.mark.slow
def test_one_destination_that_cannot_be_had_leaves_the_others_and_itself_blocked(others, alice):
    """A host that cannot carry the second one refuses while the first one is open already."""
    carry = alice.host.carry

    def refusing(prefix, *arguments):
        if prefix == CAROL:
            raise BackendError("carry failed (Operation not permitted).")
        carry(prefix, *arguments)

    alice.host.carry = refusing

    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            request = OpenPathsRequest((BOB, CAROL), 2)
            with pytest.raises((PathError, BackendError), match="overlay path close 1 2") as told:
                await node.service.open_paths(request)
            assert "the destination of path 2 stay blocked" in str(told.value)
            assert (alice.host.blocked, set(alice.host.carried)) == ({BOB, CAROL}, {BOB})
            alice.host.carry = carry
            await open_again(node)

    run(program)
