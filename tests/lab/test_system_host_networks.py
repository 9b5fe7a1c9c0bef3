"""What a host uses, asked of the kernel."""

import ipaddress

import pytest

from overlay.system.host_networks import used_networks, uses


@pytest.fixture
def host(namespace):
    """A host in a network of shared addresses, with a VPN and a neighbour."""
    namespace.configure(
        [
            "link add lan0 type veth peer name lan1",
            "link set lan1 up",
            "link set lan0 up",
            "address add 100.64.7.1/24 dev lan0",
            "address add fd44::1/64 dev lan0 nodad",
            "link add vpn0 type veth peer name vpn1",
            "link set vpn1 up",
            "link set vpn0 up",
            "route add 10.8.0.0/16 dev vpn0 table 52",
            "route add fd55::/48 dev vpn0 table 52",
            "route add 0.0.0.0/1 dev vpn0",
            "route add 128.0.0.0/1 dev vpn0",
            "route add unreachable 172.16.0.0/12",
            "neigh add 192.168.9.9 lladdr 02:00:00:00:00:09 dev lan0 nud permanent",
            "neigh add fd66::9 lladdr 02:00:00:00:00:09 dev lan0 nud permanent",
            "rule add to 10.33.0.0/16 lookup 52",
            "route add 10.44.0.0/16 dev vpn0 table 77",
            "route add default via 100.64.7.254 dev lan0 metric 50",
        ]
    )
    namespace.run(["ip", "-6", "rule", "add", "to", "fd77::/48", "lookup", "52"])
    return namespace


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("100.64.7.1", "an address"),
        ("100.64.7.77", "a route"),
        ("100.64.7.254", "a router"),
        ("fd44::77", "a route"),
        ("10.8.1.1", "a route"),
        ("fd55::1", "a route"),
        ("192.168.9.9", "a neighbour"),
        ("fd66::9", "a neighbour"),
        ("10.33.0.1", "a routing rule"),
        ("fd77::1", "a routing rule"),
        ("10.44.0.1", "a route"),
        ("100.65.0.1", None),
        ("172.16.0.1", None),
        ("10.9.0.1", None),
        ("192.168.9.10", None),
        ("fd66::10", None),
    ],
)
def test_addresses_of_lan_vpn_and_neighbours_are_in_use(host, address, what):
    found = uses(ipaddress.ip_address(address), host.call(used_networks))
    assert (found.what if found else None) == what
