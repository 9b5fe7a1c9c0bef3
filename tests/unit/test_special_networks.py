from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.cloud_services import CLOUD_SERVICES, SERVICES_DATE
from overlay.special_networks import (
    FORBIDDEN_NETWORKS,
    PRIVATE_NETWORKS,
    SPECIAL_NETWORKS,
    forbidden_network,
    lies_in,
    opens,
)

ADDRESSES = {
    "0.0.0.0": "unspecified",
    "10.255.255.255": "private",
    "100.127.0.1": "shared (carrier-grade NAT)",
    "127.0.0.53": "loopback",
    "169.254.169.254": "link-local",
    "172.31.255.255": "private",
    "192.0.0.1": "protocol assignment",
    "192.0.0.9": "protocol assignment",
    "192.0.0.170": "protocol assignment",
    "192.88.99.1": "6to4 relay",
    "192.88.99.2": "6to4 relay",
    "198.18.0.1": "benchmarking",
    "198.19.255.255": "benchmarking",
    "203.0.113.1": "documentation",
    "168.63.129.16": "cloud service",
    "161.26.0.10": "cloud service",
    "166.11.255.255": "cloud service",
    "199.36.153.11": "cloud service",
    "2600:2d00:2:2000::1": "cloud service",
    "100.100.100.200": "shared (carrier-grade NAT)",
    "192.0.0.192": "protocol assignment",
    "fd00:ec2::254": "private",
    "239.255.255.250": "multicast",
    "255.255.255.255": "reserved",
    "::": "unspecified or loopback",
    "::1": "unspecified or loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::ffff:10.0.0.1": "IPv4-mapped",
    "::ffff:0:10.0.0.1": "IPv4-translated",
    "64:ff9b::10.0.0.1": "NAT64",
    "64:ff9b:1::10.0.0.1": "NAT64",
    "64:ff9b:2::1": "reserved",
    "100::1": "discard",
    "100:0:0:1::1": "dummy",
    "200::1": "reserved",
    "2001::1": "Teredo",
    "2001:1::1": "protocol assignment",
    "2001:2::1": "benchmarking",
    "2001:10::1": "ORCHID",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4",
    "3fff:fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "segment routing",
    "fc00::1": "private",
    "fd00::1": "private",
    "fe00::1": "reserved",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
}
PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "192.0.1.0",
    "168.63.129.15",
    "168.63.129.17",
    "166.12.0.0",
    "2600:2d00:2:3000::1",
    "192.31.196.1",
    "192.88.98.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2620:4f:8000::1",
    "2a00::1",
    "3ffe::1",
    "3fff:1000::1",
]


@pytest.mark.parametrize(("address", "kind"), ADDRESSES.items())
def test_special_address_is_forbidden_by_its_most_specific_entry(address, kind):
    assert forbidden_network(ipaddress.ip_address(address)) == kind


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_not_forbidden(address):
    assert forbidden_network(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize("entry", SPECIAL_NETWORKS, ids=lambda entry: entry.prefix)
def test_network_is_forbidden_unless_its_registry_calls_it_reachable(entry):
    if not entry.reachable or entry.embeds_ipv4:
        assert forbidden_network(entry.network[0]) is not None
        assert forbidden_network(entry.network[-1]) is not None


borders = st.sampled_from(
    [
        (entry.network.version, int(end) + step)
        for entry in (*SPECIAL_NETWORKS, *CLOUD_SERVICES)
        for end in (entry.network[0], entry.network[-1])
        for step in (-1, 0, 1)
    ]
)


@pytest.mark.slow
@given(borders | st.tuples(st.sampled_from([4, 6]), st.integers(0, 2**128 - 1)))
def test_look_up_packet_filter_and_table_agree(version_and_number):
    version, number = version_and_number
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    address = make(number % 2 ** (32 if version == 4 else 128))
    listed = any(
        address in entry.network
        for entry in SPECIAL_NETWORKS
        if not entry.reachable or entry.embeds_ipv4
    ) or any(address in each.network for each in CLOUD_SERVICES)
    filtered = any(address in network for network, _ in FORBIDDEN_NETWORKS)
    assert (forbidden_network(address) is not None) == listed == filtered


def test_filtered_networks_do_not_overlap():
    networks = [network for network, _ in FORBIDDEN_NETWORKS]
    assert not any(a != b and lies_in(a, b) for a in networks for b in networks)


def test_private_networks_are_those_of_three_documents():
    assert [str(network) for network in PRIVATE_NETWORKS] == [
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
    ]


@pytest.mark.parametrize("service", CLOUD_SERVICES, ids=lambda each: each.prefix)
def test_a_wide_prefix_does_not_open_a_cloud_service(service):
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", SERVICES_DATE)
    address, wide = service.network[0], service.network.supernet(new_prefix=8)
    assert forbidden_network(address) is not None
    assert not opens(wide, address)
    assert opens(service.network, address)
    beside = ipaddress.ip_address(int(wide[-1]) - 7) if wide.version == 6 else wide[1]
    assert opens(wide, beside)
