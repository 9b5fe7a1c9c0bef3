# ruff: noqa: F811 - fixtures of another module
"""Whole nodes over real sockets: they join, carry, stop and start again, and leave nothing."""

import contextlib
import logging
import re
import sqlite3
from random import Random

import pytest
import trio
from loopback_overlay import cast, run, running, until
from loopback_world import BOB, REQUEST, nothing_left, packet_to_bob, states, world  # noqa: F401 - fixtures
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.addresses import Endpoint, NodeId
from overlay.cli.reports import status_text
from overlay.control.service import StopReport
from overlay.dht.eclipse import SIGNIFICANCE
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.errors import (
    InternalError,
)
from overlay.ipsec.userspace.engine import UserspaceEngine


def test_three_relays_join_each_other_without_any_privilege(tmp_path):
    participants = cast(tmp_path)

    async def program():
        async with running(participants) as nodes:
            for node in nodes:
                status = node.service.status()
                assert (status.joined, status.contacts, status.roles) == (True, 2, ("relay",))
                assert len(node.service.peers()) == 2

    run(program)
    assert not any(each.host.devices or each.host.kill_switch_taken for each in participants)


def test_a_node_is_entered_once(tmp_path):
    (alone,) = cast(tmp_path)[:1]

    async def program():
        node = alone.node()
        async with node:
            with pytest.raises(RuntimeError, match="a node is entered once"):
                await node.__aenter__()
            with pytest.raises(TypeError, match="hops must be"):
                async with node.anonymous_path("203.0.113.10", hops="3"):
                    pass
            assert node.service.status().uptime_s >= 0, "the first one runs on"

    run(program)


@pytest.mark.slow
def test_a_stopped_node_starts_again_from_what_it_remembers(tmp_path):
    first, second, third = cast(tmp_path)

    async def program():
        async with running([first, second, third]):
            pass
        # The only node that they were told of does not run any more.
        async with second.node() as again, third.node():
            await until(lambda: again.service.status().contacts == 1)

    run(program)


@pytest.mark.slow
def test_a_node_comes_back_by_old_peers_when_every_descriptor_has_expired(tmp_path):
    first, second, third = cast(tmp_path)

    async def program():
        async with running([first, second, third]):
            await trio.sleep(4)  # until the first save
        file = second.configuration.node.state_dir / "topology.sqlite"
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("DELETE FROM descriptors")
            assert database.execute("SELECT count(*) FROM hints").fetchone() == (2,)
        async with second.node() as again, third.node():
            await until(lambda: again.service.status().contacts == 1)

    run(program)


def test_a_suspected_eclipse_is_shown_and_logged_without_names_of_nodes(tmp_path, caplog):
    first, second, third = cast(tmp_path)
    own, rng = first.identity.node_id, Random(1)
    number = int.from_bytes(own)
    near = [
        Contact(NodeId((number ^ n).to_bytes(20)), Endpoint("198.51.100.7", n), bytes(32))
        for n in range(1, DhtSettings().k + 1)
    ]

    async def program():
        async with running([first, second, third]) as nodes:
            running_node = nodes[0].service.running
            now = running_node.clock.now()
            dht = running_node.cores.dht
            watch, looked_up = dht.parts.watch, dht.parts.watch.looked_up
            # A crawl of a large overlay, and a look-up of the own id that sybils answer.
            watch.crawled([NodeId(rng.randbytes(20)) for _ in range(1000)], rng, now)
            watch.looked_up = lambda target, found, at: looked_up(
                target, near if target == own else found, at
            )
            dht.parts.upkeep.publish(now)
            running_node.settle(now)
            await until(lambda: dht.activity.eclipses_suspected)
            status = nodes[0].service.status()
            assert status.suspect_regions == 1
            assert status.counters["dht_eclipses_suspected"] >= 1
            assert "suspected in 1 region" in status_text(status)

    with caplog.at_level(logging.WARNING, logger="overlay"):
        run(program)
    (line,) = {r.getMessage() for r in caplog.records if "eclipse" in r.getMessage()}
    assert re.fullmatch(r"topology.eclipse_suspected chance=\S+ own_region=\S+", line)
    assert float(re.search(r"chance=(\S+)", line)[1]) < SIGNIFICANCE


@pytest.mark.slow
def test_a_path_carries_both_ways_and_is_gone_when_its_context_ends(world):
    async def scenario():
        host = world.host
        async with world.alice.anonymous_path(BOB, hops=3) as path:
            assert (path.report().state, len(path.report().hops)) == ("open", 3)
            assert host.blocked == {BOB}
            (device,) = host.open_devices("anon")
            sent = packet_to_bob(host)
            device.from_kernel(sent)
            exits = [d for p in world.participants for d in p.host.open_devices("exit")]
            await until(lambda: any(each.written for each in exits))
            (leaving,) = (each for each in exits if each.written)
            answer = bytes(IP(src="203.0.113.10", dst=IP(sent).src) / UDP() / Raw(b"hello alice"))
            leaving.from_kernel(answer)
            # Both ends clear header fields, so the payload is what stays.
            await until(lambda: [bytes(IP(w)[Raw]) for w in device.written] == [b"hello alice"])
        assert (host.blocked, host.carried, host.addresses) == (set(), {}, set())
        assert world.alice.service.paths() == []

    world.play(scenario)


@pytest.mark.slow
def test_a_clean_stop_keeps_destinations_blocked(world, caplog):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        assert world.host.blocked == {BOB}

    world.play(scenario)
    assert (world.host.blocked, world.host.carried) == ({BOB}, {})
    assert [r.message for r in caplog.records] == ["kill_switch.kept destinations=1"]


@pytest.mark.slow
def test_a_stop_that_is_asked_to_release_frees_destinations(world):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        assert await world.alice.service.leave(release=False) == StopReport(1, 0, 0)
        assert await world.alice.service.leave(release=True) == StopReport(0, 1, 0)

    world.play(scenario)
    assert world.host.blocked == set()


@pytest.mark.slow
def test_an_error_inside_comes_out_as_itself_and_keeps_destinations_protected(world):
    async def scenario():
        await world.alice.service.open_paths(REQUEST)
        raise LookupError

    with pytest.raises(LookupError):
        world.play(scenario)
    assert (world.host.blocked, world.host.carried) == ({BOB}, {})


@pytest.mark.slow
def test_what_a_killed_node_left_protected_is_taken_over_and_carried_again(world):
    world.host.blocked.add(BOB)

    async def scenario():
        await until(lambda: states(world) == ["open"])
        assert set(world.host.carried) == {BOB}

    world.play(scenario)
    assert world.host.blocked == {BOB}


@pytest.mark.slow
def test_a_bug_in_a_task_ends_the_node_as_a_bug_and_keeps_destinations_protected(world, caplog):
    class BrokenEngine(UserspaceEngine):
        broken = False

        def process_outbound(self, packets, now):
            if self.broken:
                raise KeyError("a bug")
            return super().process_outbound(packets, now)

    *others, alice = world.participants

    async def program():
        async with running(others):
            engine = BrokenEngine(rng=Random(5))
            async with alice.node(engine=engine) as node:
                await until(lambda: node.service.status().mix_nodes == len(others))
                await node.service.open_paths(REQUEST)
                engine.broken = True
                world.host.open_devices("anon")[0].from_kernel(packet_to_bob(world.host))
                await trio.sleep_forever()

    with pytest.raises(InternalError, match="KeyError"):
        run(program)
    assert world.host.blocked == {BOB}
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == [
        "node.bug cause=KeyError"
    ]
