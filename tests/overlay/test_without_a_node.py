# ruff: noqa: F811 - fixtures of another module
"""What a node left is released without a node, and blocked IP versions are adopted."""

import logging

import pytest
from loopback_overlay import run, running, until
from remembering_nodes import BOB, CAROL, alice, open_again, others, stored  # noqa: F401 - fixtures

from overlay.cli.blocked import freed_text
from overlay.control.service import OpenPathsRequest
from overlay.node.release import free_blocked
from overlay.paths.ip_versions import BLOCKED_FAMILY


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
