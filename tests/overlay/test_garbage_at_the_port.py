"""Garbage at a node's UDP port does not stand before circuits and does not run the timers."""

import ipaddress
import socket
from collections import Counter

import pytest
import trio
from loopback_overlay import cast, run, running, until
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from lab.garbage import garbage_kinds
from overlay.control.service import OpenPathsRequest
from overlay.node.node_cores import NodeCores

BOB = ipaddress.ip_network("203.0.113.10/32")
KINDS = [
    "ESP, unknown SPI",
    "link, wrong mac1",
    "link, valid mac1",
    "link, answers to nothing",
    "DHT, random bytes",
    "DHT, no cookie",
    "DHT, wrong cookie",
    "DHT, answers to nothing",
    "unknown channel, 1,400 bytes",
    "keepalives, 1 byte",
]


def overlay(tmp_path):
    """Two relays, an exit and alice."""
    return cast(tmp_path, relays=2, exits=1, alice=True)


def garbage(participant):
    return garbage_kinds(
        participant.identity, "loopback", participant.endpoint, b"\x01\x02\x03\x04"
    )


def attacker(participant):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.99.0.1", 0))
    made.connect(participant.endpoint)
    return made


@pytest.mark.slow
def test_esp_passes_what_waits_at_every_hop(tmp_path):
    participants = overlay(tmp_path)

    async def program():
        async with running(participants) as nodes:
            alice = participants[-1].host
            await nodes[-1].service.open_paths(OpenPathsRequest((BOB,), 3))
            (device,) = alice.open_devices("anon")
            exits = participants[2].host.open_devices("exit")
            before = [node.service.status().counters["udp_received"] for node in nodes]
            for each in participants[:3]:
                with attacker(each) as sender:
                    for payload in garbage(each)["link, wrong mac1"] * 2:
                        sender.send(payload)
            _device, source = alice.carried[BOB]
            packet = IP(src=str(ipaddress.ip_address(source)), dst="203.0.113.10") / UDP()
            device.from_kernel(bytes(packet / Raw(b"hello bob")))
            await until(lambda: any(each.written for each in exits), step_s=0)
            after = [node.service.status().counters["udp_received"] for node in nodes]
            # At most one batch of garbage each, of the 512 that came first.
            assert all(new - old < 200 for old, new in zip(before, after, strict=True))
            await until(
                lambda: all(
                    node.service.status().counters["udp_received"] > old + 500
                    for old, node in zip(before, nodes[:3], strict=False)
                )
            )

    run(program)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_runs_no_timers(tmp_path, monkeypatch, kind):
    participants = cast(tmp_path, relays=2)
    runs = Counter()
    handle = NodeCores.handle_deadline

    def counted(cores, now):
        runs[cores] += 1
        handle(cores, now)

    monkeypatch.setattr(NodeCores, "handle_deadline", counted)

    async def program():
        async with running(participants):
            await trio.sleep(30)  # until the young overlay rests
            payloads = garbage(participants[0])[kind]
            with attacker(participants[0]) as sender:
                runs.clear()
                await trio.sleep(5)
                quiet = runs.total()
                runs.clear()
                for payload in payloads[:100]:
                    sender.send(payload)
                    await trio.sleep(0.05)
            assert runs.total() <= quiet + 30

    run(program)
