"""Relays, exits and a source in one trio program, which must leave no open descriptor."""

import ipaddress
from types import SimpleNamespace

import pytest
from loopback_overlay import cast, open_descriptors, run, running
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.control.service import OpenPathsRequest

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
