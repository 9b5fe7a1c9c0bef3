import contextlib
import ipaddress
import random
import socket
import sys

import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from lab.namespaces import Namespace
from overlay.errors import BackendError
from overlay.offload.joining import joined
from overlay.offload.super_packets import cut_all
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


_SEGMENT = 1038
_ENDS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


class _Side:
    """A namespace with one TUN device with offload; ``largest`` is of the packets read from it."""

    def __init__(self, namespace, opened, own, peer):
        self.namespace, self.own, self.largest = namespace, own, 0
        self.device = opened.enter_context(
            namespace.call(lambda: TunDevice.open("anon%d", 1400, _SEGMENT))
        )
        name = self.device.name
        namespace.call(lambda: add_address(name, ipaddress.ip_address(own).packed))
        advertised = str(_SEGMENT - (40 if "." in own else 60))
        namespace.run(["ip", "route", "add", peer, "dev", name, "src", own, "advmss", advertised])

    async def carry_to(self, other, lose):
        """Carry packets as a circuit would: as segments, some of which are lost."""
        while True:
            packets = await self.device.read_batch()
            self.largest = max([self.largest, *map(len, packets)])
            segments = [each for each in cut_all(packets, _SEGMENT) if not lose()]
            assert all(len(each) <= _SEGMENT for each in segments)
            other.device.write_batch(joined(segments, _SEGMENT))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("lost_of_a_thousand", [0, 5])
def test_tcp_passes_in_super_packets_and_every_byte_arrives(namespace, version, lost_of_a_thousand):
    draw = random.Random(lost_of_a_thousand)
    sent = draw.randbytes(3_000_000)

    with contextlib.ExitStack() as opened:
        far = opened.enter_context(Namespace("far"))
        ends = _ENDS[version]
        left = _Side(namespace, opened, *ends)
        right = _Side(far, opened, *reversed(ends))
        listener = far.call(lambda: socket.create_server((right.own, 7), family=_family(version)))
        opened.callback(listener.close)

        def transfer():
            with namespace.call(lambda: socket.socket(_family(version))) as program:
                program.settimeout(60)
                program.connect((right.own, 7))
                accepted, _ = listener.accept()
                with accepted:
                    received = _exchanged(program, accepted, sent)
                    return received, _exchanged(accepted, program, received)

        async def scenario():
            async with trio.open_nursery() as nursery:
                lose = lambda: draw.randrange(1000) < lost_of_a_thousand  # noqa: E731
                nursery.start_soon(left.carry_to, right, lose)
                nursery.start_soon(right.carry_to, left, lose)
                with trio.fail_after(60):
                    result = await trio.to_thread.run_sync(transfer)
                nursery.cancel_scope.cancel()
            return result

        assert trio.run(scenario) == (sent, sent)
    assert left.largest > 10 * _SEGMENT
    assert right.largest > 10 * _SEGMENT
    assert left.device.counters["dropped_write"] == right.device.counters["dropped_write"] == 0


def _family(version):
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _exchanged(sender, receiver, data):
    """Send ``data`` through a connection, and return what arrives."""
    received = bytearray()
    view = memoryview(data)
    sender.setblocking(False)
    while len(received) < len(data):
        if view:
            with contextlib.suppress(BlockingIOError):
                view = view[sender.send(view) :]
        received += receiver.recv(1_000_000)
    sender.setblocking(True)
    return bytes(received)
