"""Whole nodes over real sockets: they join, carry, fail one path at a time, and leave nothing."""

import ipaddress
import logging
import shutil

import pytest
import trio
from loopback_overlay import BOB, OWN_ADDRESS, CancelAfter, cast, open_descriptors, run, running, until
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.control.model import OpenPathRequest
from overlay.errors import BackendError, ConfigurationError, InternalError, NoSuitablePath
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.control_plane import ControlPlane

REQUEST = OpenPathRequest(BOB, 3)


@pytest.fixture
def nothing_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def overlay(tmp_path, nothing_left):
    """Run a scenario with two relays, two exits and alice's node and host."""

    def play(scenario):
        participants = cast(tmp_path, relays=3, exits=2, alice=True)
        alice = participants[-1]

        async def program():
            async with running(participants) as nodes:
                await scenario(nodes[-1], alice.host, *nodes[:-1])

        run(program)
        assert not alice.host.open_devices()
        assert not alice.host.guard_taken
        return participants

    return play


def packet_of(host):
    ((_device, source),) = host.carried.values()
    source = str(ipaddress.ip_address(source))
    return bytes(IP(src=source, dst="203.0.113.10", id=0, flags="DF") / UDP() / Raw(b"hello bob"))


def states(node):
    return [path.state for path in node.service.paths()]


def test_three_relays_join_each_other_and_leave_nothing(tmp_path, nothing_left):
    participants = cast(tmp_path)

    async def program():
        async with running(participants) as nodes:
            for node in nodes:
                status = node.service.status()
                assert (status.joined, status.contacts, status.roles) == (True, 2, ("relay",))
                assert len(node.service.peers()) == 2

    run(program)
    for each in participants:
        assert not each.host.devices
        assert not each.host.guard_taken


def test_a_stopped_node_starts_again_from_what_it_remembers(tmp_path, nothing_left):
    participants = cast(tmp_path)

    async def program():
        async with running(participants):
            pass
        # The last one asks nobody it was configured with: the first one is gone.
        async with participants[1].node(), participants[2].node() as node:
            await until(lambda: node.service.status().contacts == 1)

    run(program)


def test_a_path_carries_packets_and_is_gone_when_its_context_ends(overlay):
    async def scenario(alice, host, *_others):
        async with alice.anonymous_path(BOB, hops=3) as path:
            assert host.guarded == {BOB}
            (device,) = host.open_devices("anon")
            assert host.carried[BOB][0] == device.name
            assert (path.report().state, len(path.report().hops)) == ("open", 3)
            device.from_kernel(packet_of(host))
            await until(lambda: any(exits.written for exits in exit_devices))
        assert (host.guarded, host.carried, host.addresses) == (set(), {}, set())
        assert alice.service.paths() == []

    class Devices:
        def __iter__(self):
            return (d for p in participants for d in p.host.open_devices("exit"))

    participants = []
    exit_devices = Devices()

    def with_participants(nodes_scenario):
        return nodes_scenario

    made = overlay(lambda alice, host, *others: scenario_with(alice, host, others))
    assert made
