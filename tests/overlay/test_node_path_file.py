# ruff: noqa: F811 - fixtures of another module
"""The file of paths of a node: damaged, unreadable, switched off or not writable."""

import errno
import logging
import os

import pytest
import trio
from loopback_overlay import run, running, until
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

from overlay.control.service import OpenPathsRequest, StopReport
from overlay.errors import BackendError, ConfigurationError
from overlay.node.release import free_blocked
from overlay.node.shells.source_kill_switch import KILL_SWITCH
from overlay.paths.ip_versions import BLOCKED_FAMILY


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
