"""Which destinations no path may take over."""

import ipaddress
from ipaddress import ip_network

import pytest

from overlay.errors import ConfigurationError
from overlay.paths.destinations import check_destination
from overlay.special_networks import SITE_NETWORKS

OWN = [ipaddress.ip_address(text).packed for text in ("192.0.2.77", "2001:db8::77")]
INNER = (ip_network("100.64.0.0/10"), ip_network("fd69:6e6e:6572::/64"))


def check(destination):
    check_destination(destination, own_addresses=OWN, inner_networks=INNER)


@pytest.mark.parametrize(
    "destination",
    [
        "203.0.113.10/32",
        "203.0.0.0/16",
        "8.0.0.0/7",
        "10.1.0.0/16",  # private: an exit may allow it by name
        "10.0.0.0/9",
        "2001:db8:1::/48",
        "2600::/12",
        "fd00:1::/32",
        "192.0.2.76/32",
    ],
)
def test_ordinary_destinations_pass(destination):
    check(ip_network(destination))


@pytest.mark.parametrize("network", [network for network, _ in SITE_NETWORKS], ids=str)
def test_no_prefix_may_contain_a_whole_special_range(network):
    for destination in (network, network.supernet(), network.supernet(new_prefix=0)):
        with pytest.raises(ConfigurationError, match="contains all of"):
            check(destination)


@pytest.mark.parametrize(
    "network", [*INNER, ip_network("fd6d:6978::/32"), ip_network("fd63:6972::/32")], ids=str
)
def test_the_overlays_own_addresses_are_no_destination(network):
    inside = next(network.subnets(new_prefix=network.max_prefixlen))
    for destination in (inside, network, network.supernet()):
        with pytest.raises(ConfigurationError, match=r"overlaps|contains all of"):
            check(destination)


@pytest.mark.parametrize("destination", ["192.0.2.77/32", "192.0.2.0/24", "2001:db8::/64"])
def test_an_address_of_this_host_is_no_destination(destination):
    with pytest.raises(ConfigurationError, match="an address of this host"):
        check(ip_network(destination))


def test_no_sentence_names_the_destination():
    with pytest.raises(ConfigurationError) as refused:
        check(ip_network("192.0.2.0/24"))
    assert "192.0.2" not in str(refused.value)
