"""Where an exit's host or its router answers."""

import ipaddress
from pathlib import Path

from overlay.addresses import Endpoint
from overlay.config.load import parse_configuration
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.node.exit_destinations import host_networks, opened_links, refused_addresses
from overlay.node.exit_role import policy_for
from overlay.special_networks import DOCUMENTATION_NETWORKS


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


def networks(*prefixes):
    return tuple(ipaddress.ip_network(each) for each in prefixes)


EVERYTHING = parse_exit_rule("accept *:*")
LINKS = networks("198.51.101.0/24", "2a00:1:2:3::/64", "192.168.1.0/24", "2001:db8:7::/64")


def signed(policy, versions=frozenset((4, 6))):
    return [
        str(rule.network) for rule in policy_for(policy, versions, LINKS).rules if not rule.accept
    ]


def test_sources_are_told_of_public_networks_of_the_exits_own_links():
    assert signed(ExitPolicy(EVERYTHING)) == ["2a00:1:2:3::/64", "198.51.101.0/24"]
    assert signed(ExitPolicy(EVERYTHING), frozenset((4,))) == ["198.51.101.0/24"]
    laboratory = ExitPolicy(EVERYTHING, DOCUMENTATION_NETWORKS)
    assert "2001:db8:7::/64" in signed(laboratory)
    told = policy_for(laboratory, frozenset((4, 6)), LINKS)
    assert not told.might_permit(ipaddress.ip_address("2a00:1:2:3::9"))
    assert told.might_permit(ipaddress.ip_address("2a00:1:2:4::9"))


def test_a_policy_without_room_keeps_its_own_rules():
    rules = parse_exit_rule("reject 1.2.3.4:*") * 13 + EVERYTHING
    assert len(signed(ExitPolicy(rules))) == 1 + 13
    full = parse_exit_rule("reject 1.2.3.4:*") * 14 + EVERYTHING
    assert policy_for(ExitPolicy(full), frozenset((4, 6)), LINKS).rules == full


def test_an_operator_opens_links_by_name_or_altogether():
    def configured(line):
        return opened_links(parse_configuration(f"[exit]\n{line}", Path("overlay.toml")))

    assert configured('allow_forbidden = ["192.168.1.0/24"]') == networks("192.168.1.0/24")
    assert configured("allow_own_links = true") is None
    assert configured("") == ()
