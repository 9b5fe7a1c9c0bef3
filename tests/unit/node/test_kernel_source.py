"""The kill switch of the kernel backend: inner addresses, and the MTUs of routes into circuits."""

import contextlib
import ipaddress

import pytest

from overlay.addresses import InnerAddress
from overlay.node.shells.kernel_source import KernelSource
from overlay.system.fragmenting_device import REROUTE_MARK

BOB = ipaddress.ip_network("203.0.113.10/32")
BOB6 = ipaddress.ip_network("2001:db8::10/128")
INNER = ("100.64.0.2", "10.9.0.2", "fd99::2")
OURS = ("fd6d:6978::1", "fd63:6972::1")


class KillSwitchService:
    """Notes what it is asked for."""

    def __init__(self):
        self.expected, self.carried, self.prefixes = [], [], []

    def protect(self, *prefixes):
        self.prefixes += prefixes

    def protected(self):
        return self.prefixes

    def carry(self, prefix, device, address, mtu, *, program=None):
        self.carried.append((prefix.version, device, mtu, program))

    def uncarry(self, prefix):
        self.uncarried = prefix

    def together(self):
        return contextlib.nullcontext()

    def expect(self, address, device=None):
        assert device is None
        self.expected.append(str(ipaddress.ip_address(address)))


def test_only_inner_addresses_are_expected_and_only_where_something_is_protected():
    kill_switch = KillSwitchService()
    source = KernelSource(lambda: kill_switch, device="anonsec0", path_mtu=1038)
    for address in INNER:
        source.expect(InnerAddress(ipaddress.ip_address(address).packed))
    assert kill_switch.expected == []
    source.protect(BOB)
    for address in (*OURS, *INNER):
        source.expect(ipaddress.ip_address(address).packed)
    assert kill_switch.expected == list(INNER)


class Fragmenting:
    name, program = "anonfrag0", 7


@pytest.fixture
def marks():
    return []


@pytest.fixture
def kill_switch():
    return KillSwitchService()


@pytest.fixture
def source(kill_switch, marks):
    return KernelSource(
        lambda: kill_switch,
        device="anonsec0",
        path_mtu=1038,
        fragmenting=Fragmenting(),
        ask_for_mark=lambda address, mark: marks.append((len(address), mark)),
    )


def test_ipv6_packets_pass_the_fragmenting_device_only_in_proved_circuits(
    source, kill_switch, marks
):
    sizes = {4: 1038, 6: 1038}
    source.mtu_of = lambda destination: sizes[destination.version]
    for prefix, size in ((BOB, 4), (BOB6, 16)):
        source.protect(prefix)
        source.carry((prefix, InnerAddress(bytes(size))))
    unproved = [(4, "anonfrag0", 1038, 7), (6, "anonsec0", 1038, None)]
    assert kill_switch.carried == unproved
    source.resize()
    assert kill_switch.carried == unproved, "nothing has changed"

    sizes.update({4: 1300, 6: 1300})
    source.resize()
    proved = [(4, "anonfrag0", 1300, 7), (6, "anonfrag0", 1300, 7)]
    assert kill_switch.carried == unproved + proved

    sizes[6] = 1038
    source.resize()
    assert kill_switch.carried[4:] == unproved[1:]
    assert marks == [(16, None), (16, REROUTE_MARK), (16, None)]


def test_a_released_destination_is_not_resized(source, kill_switch):
    source.protect(BOB)
    source.carry((BOB, InnerAddress(bytes(4))))
    source.uncarry(BOB, InnerAddress(bytes(4)))
    source.mtu_of = lambda _: 1300
    source.resize()
    assert len(kill_switch.carried) == 1
