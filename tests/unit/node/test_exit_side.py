"""An exit that carries circuits in userspace refuses its host's addresses by itself."""

import ipaddress

import pytest

from overlay.errors import BackendError
from overlay.node.shells.exit_side import ExitSide
from overlay.system.exit_limits import ExitLimits
from overlay.system.host_events import AddressChanged, FilterChanged, Overrun

FIRST, LATER, PUBLIC = (bytes((203, 0, 113, n)) for n in (1, 2, 3))


CHANGED = AddressChanged(3, ipaddress.ip_address(LATER), 32)


class FakeWall:
    def refuse_destinations(self, networks):
        pass

    def remove(self):
        pass


class FakeTun:
    name = "exit0"

    def __init__(self):
        self.in_place, self.closed = True, False

    def write_batch(self, packets):
        pass

    def close(self):
        self.closed = True


class FakeHost:
    def __init__(self):
        self.addresses = {FIRST}
        self.asked, self.error = 0, None
        self.opened, self.brought_up = [], []

    def own_addresses(self):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return frozenset(self.addresses)

    def open_tun(self, name, mtu, segment_bytes):
        self.opened.append((name, mtu, segment_bytes))
        return FakeTun()

    def bring_up(self, name):
        self.brought_up.append(name)
        return True

    def open_exit(self, *arguments):
        return FakeWall()

    def exit_problems(self, pools):
        return []


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def side(host):
    with ExitSide(host, [], 1300, 1038, ExitLimits(64, 16, 128), None, ()) as made:
        yield made


def test_an_address_that_appears_is_refused_as_soon_as_the_kernel_tells(host, side):
    side.refuse_destinations(frozenset({PUBLIC}))
    host.addresses.add(LATER)
    side.hear([CHANGED])
    assert side.repair() == ()
    assert side.own_addresses() == {FIRST, LATER, PUBLIC}
    host.addresses.remove(LATER)
    side.hear([Overrun()])
    side.repair()
    assert side.own_addresses() == {FIRST, PUBLIC}


def test_the_host_is_asked_again_if_it_did_not_tell_and_not_without_a_reason(host, side):
    asked = host.asked
    side.hear([FilterChanged(1)])
    side.repair()
    assert host.asked == asked
    assert (side.missing(), side.disturbed()) == ((), False)
    side.hear([CHANGED])
    host.addresses.add(LATER)
    host.error = BackendError("no answer.")
    with pytest.raises(BackendError):
        side.repair()
    host.error = None
    side.repair()
    assert LATER in side.own_addresses()


def test_a_device_that_another_program_took_away_is_replaced_under_its_name(host, side):
    first = side.device
    side.hear([CHANGED])
    side.repair()
    assert (host.brought_up, first.closed) == (["exit0"], False)
    first.in_place = False
    side.hear([CHANGED])
    side.repair()
    assert first.closed, "its reader is woken, and replaces it"
    assert side.replace_device() is side.device is not first
    assert host.opened == [("exit%d", 1300, 1038), ("exit0", 1300, 1038)]
    side.close()
    assert side.replace_device() is None
