"""Whole nodes over real sockets: they join, carry, fail one path at a time, and leave nothing."""

import contextlib
import ipaddress
import logging
import re
import resource
import sqlite3
from dataclasses import replace
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest
import trio
from loopback_overlay import GATEWAY, OWN_ADDRESS, cast, open_descriptors, run, running, until
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.addresses import Endpoint, NodeId
from overlay.cli.reports import status_text
from overlay.control.service import OpenPathsRequest, StopReport
from overlay.dht.eclipse import SIGNIFICANCE
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.errors import (
    BackendError,
    ConfigurationError,
    InternalError,
    NoSuitablePath,
    PathError,
)
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node import run_node
from overlay.system.exit_problems import ExitProblem
from overlay.system.host_networks import UsedNetwork

BOB = ipaddress.ip_network("203.0.113.10/32")
REQUEST = OpenPathsRequest((BOB,), 3)


@pytest.fixture(autouse=True)
def nothing_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def world(tmp_path):
    """Three relays, two exits and alice; ``world.play(scenario)`` runs them."""
    participants = cast(tmp_path, exits=2, alice=True)
    made = SimpleNamespace(participants=participants, host=participants[-1].host)

    def play(scenario):
        async def program():
            async with running(participants) as made.nodes:
                made.alice = made.nodes[-1]
                await scenario()

        run(program)

    made.play = play
    yield made
    for each in participants:
        assert not each.host.open_devices()
        assert not each.host.kill_switch_taken
        assert not each.host.forwarding


def packet_to_bob(host):
    _device, source = host.carried[BOB]
    source = str(ipaddress.ip_address(source))
    return bytes(IP(src=source, dst="203.0.113.10", id=0, flags="DF") / UDP() / Raw(b"hello bob"))


def states(world):
    return [path.state for path in world.alice.service.paths()]


def counter(world, name):
    return world.alice.service.status().counters.get(name, 0)


# -- life --------------------------------------------------------------------------------


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


def test_a_suspected_eclipse_is_shown_and_logged_without_naming_anybody(tmp_path, caplog):
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


# -- requests ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_path_that_cannot_be_had_raises_its_own_error_and_leaves_the_host_alone(world):
    async def scenario():
        with pytest.raises(NoSuitablePath, match="whose policy refuses the destination"):
            async with world.alice.anonymous_path(ipaddress.ip_network("198.51.100.1/32")):
                pytest.fail("there is no such path")
        assert not world.host.devices

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
def test_a_path_whose_asker_hangs_up_stays_blocked_and_another_may_have_it(world):
    async def scenario():
        with trio.move_on_after(0.0) as impatient:
            await world.alice.service.open_paths(REQUEST)
        assert impatient.cancelled_caught
        assert (world.host.blocked, states(world)) == ({BOB}, ["rebuilding"])
        [report] = await world.alice.service.open_paths(REQUEST)
        assert (report.number, report.state, world.host.released) == (1, "open", [])

    world.play(scenario)


@pytest.mark.slow
def test_who_waits_for_a_path_is_told_when_somebody_else_closes_it(world):
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


# -- what the host refuses ---------------------------------------------------------------


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
def test_a_routing_table_that_somebody_flushed_is_filled_again_with_the_next_circuit(world):
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
