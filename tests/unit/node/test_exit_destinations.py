"""Where an exit's host or its router answers."""

import ipaddress

from overlay.addresses import Endpoint
from overlay.node.exit_destinations import host_networks, refused_addresses


def packed(*addresses):
    return frozenset(ipaddress.ip_address(each).packed for each in addresses)


def test_own_endpoints_and_public_routers_are_refused():
    endpoints = [Endpoint("198.51.101.7", 4500), Endpoint("2a00::7", 4500), Endpoint("0.0.0.0", 1)]
    gateways = packed("203.0.114.1", "192.168.7.1", "fe80::1")
    found = refused_addresses(endpoints, gateways)
    assert found == packed("198.51.101.7", "2a00::7", "203.0.114.1")


def test_addresses_become_networks_of_one_host():
    networks = host_networks(packed("2a00::7", "198.51.101.7"))
    assert {str(each) for each in networks} == {"198.51.101.7/32", "2a00::7/128"}
