"""Inner addresses are given up once the host uses them otherwise."""

import ipaddress
import socket

import pytest

from overlay.addresses import Endpoint, InnerAddress
from overlay.errors import BackendError
from overlay.node.inner_use import InnerUse, LentAddresses
from overlay.system.host_events import FilterChanged, Overrun
from overlay.system.host_networks import NEIGHBOUR, ROUTER, UsedNetwork

LENT = InnerAddress(bytes((100, 64, 1, 2)))
OTHER = InnerAddress(ipaddress.ip_address("fd99::7").packed)
OWN_DEVICE, VPN = 7, 8


class FakeHost:
    def __init__(self):
        self.used = [UsedNetwork(ipaddress.ip_network("100.64.1.2/32"), OWN_DEVICE, "an address")]
        self.error = None
        self.asked = 0

    def used_networks(self):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.used


@pytest.fixture
def host(monkeypatch):
    names = [(OWN_DEVICE, "anon0"), (VPN, "vpn0")]
    monkeypatch.setattr(socket, "if_nameindex", lambda: names)
    monkeypatch.setattr(socket, "if_indextoname", lambda index: dict(names).get(index, ""))
    return FakeHost()


def watched(host, held=(LENT, OTHER)):
    given_up = []
    use = InnerUse(host, lambda: [Endpoint("8.8.8.8", 4500)])
    return LentAddresses(use, lambda: held, given_up.append), given_up


def test_a_network_that_has_the_address_among_others_ends_no_path(host):
    """No exit that lends from it could serve the path again."""
    lent, given_up = watched(host)
    host.used.append(UsedNetwork(ipaddress.ip_network("100.64.0.0/10"), VPN, "a route"))
    lent.hear([Overrun()])
    lent.repair()
    assert given_up == []


def test_no_host_of_a_link_makes_a_path_change(host):
    """With an exit it would learn which host has the address that the exit lent."""
    lent, given_up = watched(host)
    host.used += [
        UsedNetwork(ipaddress.ip_network("100.64.1.2/32"), VPN, NEIGHBOUR),
        UsedNetwork(ipaddress.ip_network("100.64.1.2/32"), VPN, ROUTER),
        UsedNetwork(ipaddress.ip_network("fd99::/64"), VPN, "a route"),
        UsedNetwork(ipaddress.ip_network("fd99::7/128"), VPN, "an address"),
    ]
    lent.hear([Overrun()])
    lent.repair()
    assert given_up == []


def joined_vpn(host):
    address = ipaddress.ip_network("100.64.1.2/32")
    host.used = [*host.used, UsedNetwork(address, VPN, "an address")]
    return Overrun()


def test_an_address_that_the_host_begins_to_hold_is_given_up(host):
    lent, given_up = watched(host)
    lent.hear([Overrun()])
    lent.repair()
    assert given_up == [], "the device of circuits has the address itself"
    lent.hear([joined_vpn(host)])
    assert lent.repair() == ()
    assert given_up == [frozenset({LENT})]


def test_the_host_is_asked_only_if_its_networks_changed_and_paths_are_open(host):
    lent, _ = watched(host)
    lent.repair()
    lent.hear([FilterChanged(1)])
    lent.repair()
    assert host.asked == 0
    without, _ = watched(host, held=())
    without.hear([Overrun()])
    without.repair()
    assert host.asked == 0


def test_a_host_that_does_not_tell_is_asked_again(host):
    lent, given_up = watched(host)
    lent.hear([joined_vpn(host)])
    host.error = BackendError("no answer.")
    with pytest.raises(BackendError):
        lent.repair()
    host.error = None
    lent.repair()
    assert given_up == [frozenset({LENT})]
