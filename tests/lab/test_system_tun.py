import ipaddress
import socket
import sys

import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from overlay.errors import BackendError
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice


def _packet(version, payload):
    if version == 4:
        head = IP(src="192.0.2.2", dst="192.0.2.1")
    else:
        head = IPv6(src="2001:db8::2", dst="2001:db8::1")
    return bytes(head / UDP(sport=7, dport=7777) / Raw(payload))


@pytest.mark.parametrize("version", [4, 6])
def test_a_batch_passes_in_both_directions(namespace, version):
    local, remote = ("192.0.2.1", "192.0.2.2") if version == 4 else ("2001:db8::1", "2001:db8::2")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    count = 100

    def inside():
        with (
            TunDevice.open("anon%d", 1400) as device,
            socket.socket(family, socket.SOCK_DGRAM) as program,
        ):
            add_address(device.name, ipaddress.ip_address(local).packed)
            namespace.run(["ip", "route", "add", remote, "dev", device.name])
            program.bind((local, 7777))
            program.settimeout(60)
            device.write_batch([_packet(version, bytes([index])) for index in range(count)])
            inward = [program.recv(100) for _ in range(count)]
            for index in range(count):
                program.sendto(bytes([index]), (remote, 7))
            return device.name, inward, trio.run(_read, device, count), dict(device.counters)

    name, inward, outward, counters = namespace.call(inside)
    assert name == "anon0"
    assert inward == [bytes([index]) for index in range(count)]
    parse = IP if version == 4 else IPv6
    assert [bytes(parse(packet)[UDP].payload) for packet in outward] == inward
    assert counters["written"] == count
    assert counters["dropped_write"] == 0


async def _read(device, count):
    packets = []
    with trio.fail_after(5):
        while len(packets) < count:
            packets += await device.read_batch()
    return packets


def test_the_kernel_says_nothing_of_its_own_on_the_device(namespace, tmp_path):
    def inside():
        with TunDevice.open("anon%d", 1400) as device:
            add_address(device.name, ipaddress.ip_address("fd00::1").packed)
            links = namespace.run(["ip", "-6", "address", "show", "dev", device.name]).stdout
            namespace.run(["ip", "route", "add", "fd00::2", "dev", device.name])
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as program:
                program.sendto(b"the only one", ("fd00::2", 7))
            return links, trio.run(_read, device, 1)

    links, packets = namespace.call(inside)
    assert "fe80" not in links
    assert len(packets) == 1
    assert packets[0].endswith(b"the only one")


def test_unusable_packets_are_counted_not_raised(namespace):
    def inside():
        with TunDevice.open("anon%d", 1400) as device:
            device.write_batch([b"\x00", b"\x20 neither of both"])
            return dict(device.counters)

    assert namespace.call(inside) == {"written": 0, "dropped_write": 2}


def test_a_taken_name_says_what_to_do(namespace):
    def inside():
        with TunDevice.open("taken", 1400):
            TunDevice.open("taken", 1400)

    with pytest.raises(BackendError, match="another process uses a device of this name"):
        namespace.call(inside)


def test_a_removed_device_is_an_error_that_says_what_to_do(namespace):
    def inside():
        with TunDevice.open("anon%d", 1400) as device:
            namespace.run(["ip", "link", "delete", device.name])
            trio.run(_read, device, 1)

    with pytest.raises(BackendError, match="restart the node"):
        namespace.call(inside)


def test_closing_wakes_the_reader_and_removes_the_device(namespace):
    async def scenario():
        device = TunDevice.open("anon%d", 1400)

        async def read():
            with pytest.raises(trio.ClosedResourceError):
                await device.read_batch()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            device.close()

    namespace.call(lambda: trio.run(scenario))
    assert "anon" not in namespace.run(["ip", "link"]).stdout


def test_without_rights_it_says_how_to_get_them(namespace):
    code = "from overlay.system.tun import TunDevice; TunDevice.open('anon%d', 1400)"
    done = namespace.run(
        ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--",
         sys.executable, "-c", code],
        check=False,
    )  # fmt: skip
    assert "BackendError: creating the TUN device anon%d failed" in done.stderr
    assert "unshare -Urn" in done.stderr
