"""Nothing opens by itself: how nodes and programs end, and what the next ones find.

docs/decisions/0037.
"""

import errno
import ipaddress
import json
import logging
import os
import stat

import pytest
import trio
from loopback_overlay import FakeHost, Participant, cast, run, running, until
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.cli.blocked import freed_text
from overlay.config.load import parse_configuration
from overlay.control.service import OpenPathsRequest, StopReport
from overlay.errors import BackendError, ConfigurationError, PathError
from overlay.node import OverlayNode
from overlay.node.path_file import encode_paths
from overlay.node.release import free_blocked
from overlay.node.shells.source_kill_switch import KILL_SWITCH
from overlay.paths.ip_versions import BLOCKED_FAMILY
from overlay.paths.requested_path import PathTerms

BOB = ipaddress.ip_network("203.0.113.10/32")
CAROL = ipaddress.ip_network("203.0.113.11/32")
DAVE = ipaddress.ip_network("2001:db8:77::10/128")
BOTH = '[exit]\npolicy = ["accept 203.0.113.0/24:*", "accept [2001:db8:77::]/48:*"]\n'


@pytest.fixture
def others(tmp_path):
    """One relay and one exit for both IP versions."""
    (first,) = cast(tmp_path, relays=1)
    return [first, Exit(tmp_path, 2, exits=True, bootstrap=first)]


class Exit(Participant):
    """A participant whose exit policy accepts both IP versions."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        text = (
            '[network]\nnetwork_id = "loopback"\nallow_private_endpoints = true\n'
            f'listen = ["{self.endpoint}"]\nbootstrap = ["{options["bootstrap"].endpoint}"]\n'
            f'[roles]\nexit = true\n[ipsec]\nbackend = "userspace"\n{BOTH}'
            "[dht]\ncrawl_first_interval_s = 1.0\ncrawl_interval_s = 10.0\n"
        )
        self.configuration = parse_configuration(text, self.directory / "overlay.toml")


@pytest.fixture
def alice(tmp_path, others):
    return Participant(tmp_path, 9, bootstrap=others[0], settings="[selection]\nhops = 2\n")


def with_settings(participant, settings):
    """Give a participant another configuration, as if its user had edited the file."""
    bootstrap = participant.configuration.network.bootstrap[0]
    text = (
        '[network]\nnetwork_id = "loopback"\nallow_private_endpoints = true\n'
        f'listen = ["{participant.endpoint}"]\nbootstrap = ["{bootstrap}"]\n'
        '[ipsec]\nbackend = "userspace"\n[dht]\ncrawl_first_interval_s = 1.0\n'
        "[selection]\nhops = 2\n" + settings
    )
    participant.configuration = parse_configuration(text, participant.directory / "overlay.toml")


def file_of(participant):
    return participant.configuration.node.paths_file


def remember(participant, destination):
    """Write what an earlier process would have left on the disk."""
    file_of(participant).write_bytes(encode_paths([PathTerms(destination, 2, "uniform")]))


def stored(participant):
    return json.loads(file_of(participant).read_text())["paths"]


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


async def open_again(node):
    """Wait until every path of a node is open; return the reports."""
    await until(lambda: {p.state for p in node.service.paths()} == {"open"}, within_s=60)
    return node.service.paths()


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
                await until(lambda: alice.host.blocked, step_s=0)
                assert [p["destination"] for p in stored(alice)] == [str(BOB)]
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


# -- what is on the disk -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"version": 2, "paths": []}'],
    ids=["empty", "nested", "newer"],
)
def test_a_damaged_file_is_set_aside_and_the_kernel_still_tells(others, alice, content, caplog):
    file_of(alice).write_bytes(content)
    alice.host.blocked.add(BOB)

    async def program():
        async with running(others), alice.node() as node:
            (report,) = await open_again(node)
            assert (report.destination, report.strategy) == (str(BOB), "uniform")
            assert node.service.status().counters["path_file_entries_lost"] == 1

    run(program)
    assert [p.name for p in alice.directory.glob("paths.json.*")] == ["paths.json.damaged-1"]
    assert [p["destination"] for p in stored(alice)] == [str(BOB)]
    assert "paths.damaged_entries_set_aside entries=1" in caplog.messages


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_file_that_cannot_be_read_now_is_no_damaged_one(alice, monkeypatch, number):
    """Without it, its destinations would be forgotten and open; the user must be told."""
    remember(alice, BOB)
    with_settings(alice, f'[paths]\npermanent = ["{CAROL}"]\n')
    really_open = os.open

    def refuse(path, *arguments):
        if path == file_of(alice):
            raise OSError(number, os.strerror(number))
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)

    async def program():
        async with alice.node():
            pass

    with pytest.raises(BackendError, match=r"paths.json cannot be read .* would not be blocked"):
        run(program)
    with pytest.raises(BackendError, match=r"paths.json cannot be read"):
        free_blocked(alice.configuration, host=alice.host)
    assert alice.host.blocked == {CAROL}, "what the configuration lists is blocked at least"
    assert [each["destination"] for each in stored(alice)] == [str(BOB)]
    assert not list(alice.directory.glob("paths.json.*"))


def test_a_state_directory_that_others_may_write_is_refused_behind_the_kill_switch(alice):
    """Another user could replace the list of what must be blocked after a reboot."""
    remember(alice, BOB)
    alice.directory.chmod(0o777)

    async def program():
        async with alice.node():
            pass

    with pytest.raises(ConfigurationError, match="may be written by other users"):
        run(program)
    assert alice.host.blocked == {BOB}


@pytest.mark.slow
def test_a_memory_that_is_switched_off_writes_nothing_and_removes_what_was_written(others, alice):
    remember(alice, BOB)
    with_settings(alice, "[paths]\nremember = false\n")

    async def program():
        async with running(others):
            async with alice.node() as node:
                (report,) = await open_again(node)
                assert len(report.hops) == 2
                assert not file_of(alice).exists()
            async with alice.node() as node:
                assert alice.host.blocked == {BOB}, "until a reboot the kernel remembers"
                await open_again(node)
            assert not file_of(alice).exists()

    run(program)


@pytest.mark.slow
def test_a_disk_that_takes_no_file_keeps_no_path_from_opening(others, alice, caplog):
    block_the_file(alice)

    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            assert node.service.status().counters["path_file_not_written"] >= 1
            free_the_file(alice)
            await until(lambda: file_of(alice).exists(), step_s=1)
            assert "path_file_not_written" not in node.service.status().counters

    run(program)
    assert "paths.not_remembered" in caplog.messages


def test_a_stopping_node_writes_no_file_without_the_paths_that_it_has_forgotten(others, alice):
    """The disk has room again after the node dropped its circuits, before its last writes."""
    block_the_file(alice)
    uncarry = alice.host.uncarry

    def room_again(prefix):
        free_the_file(alice)
        uncarry(prefix)

    alice.host.uncarry = room_again

    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            await node.service.open_paths(OpenPathsRequest((BOB,), 2))
        assert not file_of(alice).exists()

    run(program)


def block_the_file(participant):
    """Put into the place of the file what can neither be replaced nor set aside."""
    file_of(participant).mkdir()
    (file_of(participant) / "in the way").touch()
    for number in range(1, 9):
        (participant.directory / f"paths.json.damaged-{number}").touch()


def free_the_file(participant):
    (file_of(participant) / "in the way").unlink()
    file_of(participant).rmdir()


@pytest.mark.parametrize("refused", ["open_kill_switch", "protect"])
def test_a_node_that_cannot_block_at_its_start_says_so_and_blocks_as_soon_as_it_can(
    alice, caplog, refused
):
    """For example because it lacks rights, or because another process has the kill switch."""
    remember(alice, BOB)
    alice.host.refuse.add(refused)
    if refused == "open_kill_switch":
        alice.host.blocked = {CAROL, *BLOCKED_FAMILY[6]}  # found when the kill switch is open
    reason = f"{refused} failed (Operation not permitted)."

    async def program():
        async with alice.node() as node:
            await trio.sleep(60)
            assert BOB not in alice.host.blocked
            status = node.service.status()
            assert (status.protected, status.unprotected) == ((), (str(BOB),))
            assert status.unprotected_reason == reason
            assert KILL_SWITCH in status.protection
            assert status.counters["repairs_refused"] < 20, "after waits that double"
            assert [path.unprotected for path in node.service.paths()] == [reason]
            assert await node.service.leave(release=False) == StopReport(0, 0, 0, unprotected=1)
            assert node.service.protected_count() == 0
            alice.host.refuse.clear()
            await until(lambda: BOB in alice.host.blocked, within_s=10)
            status = node.service.status()
            assert (status.unprotected, status.unprotected_reason) == ((), "")
            assert status.counters[f"repaired_{KILL_SWITCH.replace(' ', '_')}"] == 1
            assert not any(path.unprotected for path in node.service.paths())
            if refused == "open_kill_switch":
                assert status.protected == (str(BOB), str(CAROL))
                assert status.blocked_versions == ("IPv6",)

    with caplog.at_level(logging.WARNING):
        run(program)
    assert f"kill_switch.not_protected destinations=1 reason={reason}" in caplog.messages


def test_a_node_that_stops_without_the_kill_switch_does_not_say_that_it_blocks(alice, caplog):
    remember(alice, BOB)
    alice.host.refuse.add("open_kill_switch")

    async def program():
        async with alice.node() as node:
            pass
        assert node is not None

    run(program)
    assert not any(line.startswith("kill_switch.kept") for line in caplog.messages)
    assert "kill_switch.not_protected destinations=1" in caplog.messages


@pytest.mark.slow
def test_a_request_that_could_not_be_protected_is_not_owed_later(others, alice):
    """It failed, and the user was told so."""

    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            alice.host.refuse.add("protect")
            with pytest.raises(BackendError):
                await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            alice.host.refuse.clear()
            await trio.sleep(60)
            assert (alice.host.blocked, node.service.status().unprotected) == (set(), ())

    run(program)


# -- without a node ----------------------------------------------------------------------


def test_what_a_node_left_is_freed_without_a_node(others, alice):
    async def program():
        async with running(others), alice.node() as node:
            await until(lambda: node.service.status().mix_nodes == 2)
            await node.service.open_paths(OpenPathsRequest((BOB,), 2))
            await node.service.open_paths(OpenPathsRequest((CAROL,), 2, both_versions=True))
            with pytest.raises(AssertionError):  # the node has the kill switch
                free_blocked(alice.configuration, host=alice.host)

    run(program)
    freed = free_blocked(alice.configuration, [BOB], host=alice.host)
    assert freed.destinations == (BOB,)
    assert alice.host.blocked == {CAROL} | set(BLOCKED_FAMILY[6])
    assert [p["destination"] for p in stored(alice)] == [str(CAROL)]
    assert free_blocked(alice.configuration, host=alice.host).destinations == (CAROL,)
    assert alice.host.released[-1] == BLOCKED_FAMILY[6][0], "the mark of the block goes last"
    assert (alice.host.blocked, stored(alice)) == (set(), [])


def test_freeing_one_of_unknown_destinations_keeps_a_blocked_version(alice):
    block = set(BLOCKED_FAMILY[6])
    alice.host.blocked = {BOB, CAROL} | block
    assert free_blocked(alice.configuration, [BOB], host=alice.host).destinations == (BOB,)
    assert alice.host.blocked == {CAROL} | block
    assert free_blocked(alice.configuration, [CAROL], host=alice.host).destinations == (CAROL,)
    assert alice.host.blocked == set()


def test_freeing_an_ip_version_that_is_blocked_alone_is_told_of(alice, caplog):
    alice.host.blocked = set(BLOCKED_FAMILY[6])
    with caplog.at_level(logging.INFO):
        freed = free_blocked(alice.configuration, host=alice.host)
    assert (freed.destinations, freed.versions) == ((), (6,))
    assert alice.host.blocked == set()
    assert freed_text(0, ["IPv6"]) == "No node runs. IPv6 is no longer blocked as a whole."
    assert freed_text(0, []) == "No node runs, and nothing is blocked."
    assert caplog.messages == ["kill_switch.version_unblocked ip_version=6"]


def test_a_blocked_version_that_a_killed_node_left_is_adopted_with_its_path(others, alice):
    """Without the file, the kernel alone tells that IPv6 was blocked."""
    alice.host.blocked = {BOB, BLOCKED_FAMILY[6][0]}  # killed before all of it was there

    async def program():
        async with running(others), alice.node() as node:
            assert alice.host.blocked == {BOB} | set(BLOCKED_FAMILY[6])
            (report,) = await open_again(node)
            assert report.both_versions
            await node.service.close_path(None)
            assert alice.host.blocked == set()

    run(program)


def test_a_blocked_version_without_any_path_stays_until_all_is_closed(others, alice, caplog):
    alice.host.blocked = set(BLOCKED_FAMILY[6])

    async def program():
        async with running(others), alice.node() as node:
            assert node.service.paths() == []
            assert node.service.protected_count() == 1
            assert await node.service.close_path(None) == 0
            assert "kill_switch.version_unblocked ip_version=6" in caplog.messages
            assert alice.host.blocked == set()

    run(program)
