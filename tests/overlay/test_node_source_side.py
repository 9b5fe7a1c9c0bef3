"""The source's devices, addresses and kill switch stay in step, whatever the host refuses."""

import ipaddress

import pytest
from loopback_overlay import FakeHost

from overlay.addresses import InnerAddress
from overlay.errors import BackendError
from overlay.node.shells.source_side import SourceDevice

BOB = ipaddress.ip_network("203.0.113.10/32")
CAROL = ipaddress.ip_network("203.0.113.20/32")
VC = InnerAddress(bytes([100, 64, 0, 9]))


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def opened():
    return []


@pytest.fixture
def side(host, opened):
    return SourceDevice(
        host, device_mtu=1280, path_mtu=1200, segment_bytes=1038, device_opened=opened.append
    )


def test_nothing_is_opened_before_the_first_path(host, side):
    side.release(BOB)
    side.close()
    assert not host.devices
    assert not host.kill_switch_taken


def test_an_address_stays_as_long_as_one_path_uses_it(host, side):
    for destination in (BOB, CAROL):
        side.protect(destination)
        side.carry((destination, VC))
    side.uncarry(BOB, VC)
    assert host.addresses == {("anon0", VC)}
    side.uncarry(CAROL, VC)
    assert host.addresses == set()
    assert host.blocked == {BOB, CAROL}


class OrderedHost(FakeHost):
    """Notes the order of what concerns addresses and their filter."""

    def __init__(self):
        super().__init__()
        self.order = []

    def expect(self, source_address, device=None):
        super().expect(source_address, device)
        self.order.append(f"filter on {device}")

    def add_address(self, device, address):
        super().add_address(device, address)
        self.order.append("address")

    def carry(self, *arguments):
        super().carry(*arguments)
        self.order.append("route")

    def remove_address(self, device, address):
        super().remove_address(device, address)
        self.order.append("no address")

    def uncarry(self, prefix):
        super().uncarry(prefix)
        self.order.append("no route, no filter")


def test_the_filter_stands_before_and_as_long_as_there_is_an_address():
    host = OrderedHost()
    side = SourceDevice(
        host, device_mtu=1280, path_mtu=1200, segment_bytes=1038, device_opened=lambda _: None
    )
    side.protect(BOB)
    side.carry((BOB, VC))
    side.uncarry(BOB, VC)
    assert host.order == [
        "filter on anon0",
        "address",
        "route",
        "no address",
        "no route, no filter",
    ]


def test_a_refused_filter_leaves_no_address(host, side):
    side.protect(BOB)
    host.refuse.add("expect")
    with pytest.raises(BackendError):
        side.carry((BOB, VC))
    assert host.addresses == set()


def test_a_refused_carry_leaves_no_address(host, side):
    side.protect(BOB)
    host.refuse.add("carry")
    with pytest.raises(BackendError):
        side.carry((BOB, VC))
    assert host.addresses == set()
    host.refuse.clear()
    side.carry((BOB, VC))
    assert host.addresses == {("anon0", VC)}


def test_a_refused_uncarry_gives_the_address_back_all_the_same(host, side):
    side.protect(BOB)
    side.carry((BOB, VC))
    host.refuse.add("uncarry")
    with pytest.raises(BackendError):
        side.uncarry(BOB, VC)
    assert host.addresses == set()


def test_a_lost_device_is_replaced_at_the_next_carry(host, side, opened):
    side.protect(BOB)
    side.carry((BOB, VC))
    side.device_lost()
    side.uncarry(BOB, VC)
    side.carry((BOB, VC))
    assert [device.name for device in opened] == ["anon0", "anon1"]
    assert host.carried == {BOB: ("anon1", VC)}
    assert host.addresses == {("anon1", VC)}


def test_a_renamed_device_is_given_up(host, side, opened):
    side.protect(BOB)
    side.carry((BOB, VC))
    assert side.repair() == ()
    opened[0].in_place = False
    assert side.missing() == ("circuit device",)
    assert side.repair() == ("circuit device",)
    assert not opened[0].open, "its reader tells of it"


def test_a_flushed_kill_switch_is_put_back_before_packets_are_carried(host, side):
    side.protect(BOB)
    host.blocked.clear()
    side.carry((BOB, VC))
    assert host.blocked == {BOB}


def test_leftovers_are_none_without_the_privilege_to_have_left_any(host, side):
    host.blocked.add(BOB)
    assert side.leftovers() == [BOB]
    without = FakeHost()
    without.refuse.add("open_kill_switch")
    denied = SourceDevice(
        without, device_mtu=1280, path_mtu=1200, segment_bytes=1038, device_opened=lambda _: None
    )
    assert denied.leftovers() == []


def test_closing_keeps_the_kill_switch_and_gives_up_the_right_to_change_it(host, side):
    side.protect(BOB)
    side.carry((BOB, VC))
    side.close()
    assert host.blocked == {BOB}
    assert not host.kill_switch_taken
    assert not host.open_devices()
