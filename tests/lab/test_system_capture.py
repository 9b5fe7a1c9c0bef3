import os
import select
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from lab.capture import Capture
from lab.namespaces import LabError, Namespace, netem_missing
from lab.reading import UDP
from overlay.addresses import Endpoint
from overlay.system.tun import TunDevice
from overlay.system.udp import bound_socket


def send(namespace, address, count):
    def inside():
        with bound_socket(Endpoint("0.0.0.0", 0)) as new:
            for index in range(count):
                new.sendto(index.to_bytes(4, "big"), (address, 9))

    namespace.call(inside)


def test_a_capture_sees_every_packet_in_order(underlay, exchange, tmp_path):
    alice, bob = underlay.add_host("alice"), underlay.add_server("bob")
    exchange(alice, bob)
    with (
        alice.capture(tmp_path / "alice.pcap") as near,
        bob.capture(tmp_path / "bob.pcap") as far,
        Capture(underlay.core, bob.core_interface, tmp_path / "core.pcap") as between,
    ):
        send(alice.namespace, str(bob.ipv4.ip), 3000)
        exchange(alice, bob)
    for capture in (near, far, between):
        seen = [p for p in capture.packets() if p.protocol == UDP and p.destination_port == 9]
        assert [p.payload[:4] for p in seen] == [i.to_bytes(4, "big") for i in range(3000)]
        assert [p.timestamp for p in seen] == sorted(p.timestamp for p in seen)


@pytest.mark.skipif(
    shutil.which("tcpdump") is None or Path("/proc/self/setgroups").read_text() != "allow\n",
    reason="tcpdump is not installed, or may not change its groups in this user namespace",
)
def test_tcpdump_reads_what_a_capture_wrote(underlay, exchange, tmp_path):
    alice, bob = underlay.add_host("alice"), underlay.add_server("bob")
    with alice.capture(tmp_path / "alice.pcap") as capture:
        send(alice.namespace, str(bob.ipv4.ip), 50)
        exchange(alice, bob)
    command = ["tcpdump", "-n", "-r", capture.path, "udp", "dst", "port", "9"]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(read.stdout.splitlines()) == 50


def test_packets_that_found_no_room_are_an_error(underlay, tmp_path):
    alice, bob = underlay.add_host("alice"), underlay.add_server("bob")
    capture = Capture(alice.namespace, "eth0", tmp_path / "small.pcap", most_packets=1)
    capture.start()
    send(alice.namespace, str(bob.ipv4.ip), 6000)
    with pytest.raises(LabError, match=r"missed \d+ of \d+ packets"):
        capture.stop()


def test_longer_packets_keep_their_length_and_lose_their_tail(underlay, exchange, tmp_path):
    alice, bob = underlay.add_host("alice"), underlay.add_server("bob")
    exchange(alice, bob)
    with alice.capture(tmp_path / "alice.pcap", snaplen_bytes=64) as capture:

        def inside():
            with bound_socket(Endpoint("0.0.0.0", 0)) as new:
                new.sendto(bytes(1000), (str(bob.ipv4.ip), 9))

        alice.namespace.call(inside)
    (seen,) = [p for p in capture.packets() if p.destination_port == 9]
    assert seen.length == 1028
    assert len(seen.payload) == 64 - 14 - 28


def test_a_tun_device_is_a_vantage_point_too(namespace, tmp_path):
    with namespace.call(lambda: TunDevice.open("anon0", 1400)) as device:
        namespace.run(["ip", "route", "add", "192.0.2.9", "dev", "anon0"])
        namespace.run(["ip", "address", "add", "192.0.2.1/32", "dev", "anon0"])
        with Capture(namespace, "anon0", tmp_path / "anon.pcap") as capture:
            send(namespace, "192.0.2.9", 1)
        (seen,) = [p for p in capture.packets() if p.protocol == UDP]
        assert (seen.source, seen.destination, seen.payload) == (
            "192.0.2.1", "192.0.2.9", bytes(4),
        )  # fmt: skip

        async def read():
            with trio.fail_after(5):
                return await device.read_batch()

        assert len(trio.run(read)) == 1


def test_an_unknown_interface_is_refused_with_a_sentence(namespace, tmp_path):
    with pytest.raises(LabError, match="capturing on eth7 failed: No such device"):
        Capture(namespace, "eth7", tmp_path / "x.pcap").start()


def test_a_failed_program_and_a_slow_one_are_named(namespace):
    with pytest.raises(LabError, match="alone: `ip link set eth7 up` failed: Cannot find device"):
        namespace.run(["ip", "link", "set", "eth7", "up"])
    with pytest.raises(LabError, match="sleep took more than 0 s"):
        namespace.run(["sleep", "60"], timeout_s=0.05)


def test_a_function_called_in_a_namespace_sees_its_devices_and_its_errors_come_out(namespace):
    assert namespace.call(lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
    with pytest.raises(ZeroDivisionError):
        namespace.call(lambda: 1 // 0)


def test_closing_a_namespace_ends_its_programs(laboratory):
    with Namespace("closing") as closing:
        program = closing.popen(["sleep", "600"])
    assert program.returncode is not None


def test_a_killed_laboratory_leaves_no_program_behind(namespace, script):
    source = """
import subprocess, sys
from lab.namespaces import Namespace
inner = Namespace("inner")
program = inner.popen(["sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE)
program.stdout.readline()
print(program.pid, inner.pid, flush=True)
sys.stdin.read()
"""
    killed = script(namespace, source)
    pids = [int(pid) for pid in killed.said.split()]
    watched = [os.pidfd_open(pid) for pid in pids]
    killed.kill()
    for descriptor in watched:
        assert select.select([descriptor], [], [], 10)[0] == [descriptor]
        os.close(descriptor)


def test_two_hosts_may_not_share_a_network_or_a_name(underlay):
    alice = underlay.add_host("alice")
    with pytest.raises(LabError, match="shares its name or a network"):
        underlay.add_host("alice")
    with pytest.raises(LabError, match="shares its name or a network"):
        underlay.add_host("other", ipv4=alice.ipv4)


def test_a_delayed_cable_needs_netem_and_says_so(underlay):
    missing = netem_missing()
    if missing is None:
        assert underlay.add_host("slow", delay_ms=5).name == "slow"
    else:
        with pytest.raises(LabError, match="modprobe sch_netem"):
            underlay.add_host("slow", delay_ms=5)
