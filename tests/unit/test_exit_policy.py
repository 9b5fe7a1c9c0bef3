from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from overlay.errors import ConfigurationError, Malformed
from overlay.exit_policy import (
    MAX_RULES,
    ExitPolicy,
    ExitRule,
    format_exit_rules,
    parse_exit_rule,
)
from overlay.special_networks import DOCUMENTATION_NETWORKS, FORBIDDEN_NETWORKS, forbidden_network
from overlay.wire import pack_canonical

WEB = ip_address("203.0.114.80")
WEB6 = ip_address("2a00:db8::80")


def policy(*rules: str, opened: tuple[str, ...] = ()) -> ExitPolicy:
    parsed = tuple(rule for text in rules for rule in parse_exit_rule(text))
    return ExitPolicy(parsed, tuple(ip_network(prefix) for prefix in opened))


# -- what a policy decides -------------------------------------------------------------


def test_first_covering_rule_decides():
    both = policy("reject *:25", "accept *:*")
    assert not both.permits(WEB, 25)
    assert both.permits(WEB, 80)
    assert policy("accept *:*", "reject *:25").permits(WEB, 25)


def test_destination_that_no_rule_covers_is_refused():
    assert not ExitPolicy(()).permits(WEB, 80)
    assert not policy("accept 203.0.114.0/24:*").permits(ip_address("203.0.115.1"), 80)


def test_star_covers_both_families():
    assert policy("accept *:443").permits(WEB, 443)
    assert policy("accept *:443").permits(WEB6, 443)


def test_protocol_without_ports_needs_a_rule_for_every_port():
    assert policy("accept *:*").permits(WEB, None)
    assert not policy("accept *:1-65535").permits(WEB, None)


def test_might_permit_needs_one_reachable_port():
    assert policy("accept *:443").might_permit(WEB)
    assert policy("reject *:25", "accept *:*").might_permit(WEB)
    assert not policy("reject *:*", "accept *:*").might_permit(WEB)
    assert not policy("accept 198.51.101.0/24:*").might_permit(WEB)
    assert not policy("accept 0.0.0.0/0:*").might_permit(WEB6)


@pytest.mark.parametrize("network", [network for network, _ in FORBIDDEN_NETWORKS], ids=str)
def test_forbidden_range_is_refused_unless_opened_by_name(network):
    for address in (network[0], network[-1]):
        assert forbidden_network(address) is not None
        assert not policy("accept *:*").might_permit(address)
        assert not policy("accept *:*").permits(address, 80)
        assert policy("accept *:*", opened=(str(network),)).permits(address, 80)


def test_opened_range_still_needs_a_rule():
    opened = policy("accept *:80", opened=("10.1.0.0/16",))
    assert opened.permits(ip_address("10.1.2.3"), 80)
    assert not opened.permits(ip_address("10.1.2.3"), 81)
    assert not opened.permits(ip_address("10.2.0.1"), 80)


def test_policy_at_its_limit_is_accepted_and_over_it_refused():
    rule = ExitRule(accept=True, network=ip_network("203.0.114.0/24"))
    assert len(ExitPolicy((rule,) * MAX_RULES).rules) == MAX_RULES
    with pytest.raises(Malformed):
        ExitPolicy((rule,) * MAX_RULES, (ip_network("10.0.0.0/8"),))


def test_documentation_networks_do_not_count_in_the_limit():
    rule = ExitRule(accept=True, network=ip_network("203.0.114.0/24"))
    full = ExitPolicy((rule,) * MAX_RULES, DOCUMENTATION_NETWORKS)
    assert ExitPolicy.decode(full.encode()) == full
    with pytest.raises(Malformed):
        ExitPolicy((rule,), (DOCUMENTATION_NETWORKS[0],) * (MAX_RULES + 1))


@pytest.mark.parametrize(("first", "last"), [(2, 1), (-1, 5), (0, 65536)])
def test_rule_with_bad_ports_is_refused(first, last):
    with pytest.raises(Malformed):
        ExitRule(accept=True, network=ip_network("::/0"), first_port=first, last_port=last)


# -- plain lists -----------------------------------------------------------------------

RICH = policy(
    "reject *:25",
    "accept 203.0.114.0/24:80-443",
    "accept [2a00:db8::]/33:*",
    "accept 192.0.2.7:53",
    opened=("10.0.0.0/8", "fd00::/8"),
)


def test_encoded_policy_decodes_to_itself():
    assert ExitPolicy.decode(RICH.encode()) == RICH


def test_encoding_is_compact():
    widest = ExitRule(
        accept=True, network=ip_network("2a00:db8::1/128"), first_port=1000, last_port=65535
    )
    assert len(pack_canonical(ExitPolicy((widest,) * MAX_RULES).encode())) <= 480


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [[]],
        [[], [], []],
        [None, []],
        [[[]], []],
        [[[True, 4, 0, b"", 80]], []],  # one port
        [[[1, 4, 0, b""]], []],  # a verb that is no boolean
        [[[True, 5, 0, b""]], []],  # no IP version
        [[[True, True, 0, b""]], []],
        [[[True, [], 0, b""]], []],
        [[[True, 4, 33, b"12345"]], []],  # longer than an address
        [[[True, 4, -1, b""]], []],
        [[[True, 4, 24, b"ab"]], []],  # too few bytes
        [[[True, 4, 8, b"ab"]], []],  # too many bytes
        [[[True, 4, 4, b"\x0f"]], []],  # bits beyond the length
        [[[True, 4, 0, ""]], []],
        [[[True, 4, 0, b"", 0, 65535]], []],  # every port has a shorter form
        [[[True, 4, 0, b"", 443, 80]], []],
        [[[True, 4, 0, b"", 80, 65536]], []],
        [[[True, 4, 0, b"", False, True]], []],
        [[[True, 4, 0, b""]] * (MAX_RULES + 1), []],
        [[[True, 4, 0, b""]] * MAX_RULES, [[4, 8, b"\x0a"]]],
    ],
)
def test_other_lists_are_malformed(value):
    with pytest.raises(Malformed):
        ExitPolicy.decode(value)


# -- rules as text ---------------------------------------------------------------------


def test_text_becomes_rules():
    assert parse_exit_rule("accept 203.0.114.0/24:80-443") == (
        ExitRule(accept=True, network=ip_network("203.0.114.0/24"), first_port=80, last_port=443),
    )
    assert parse_exit_rule("accept [2a00:db8::]/32:*") == (
        ExitRule(accept=True, network=ip_network("2a00:db8::/32")),
    )
    assert parse_exit_rule(" reject  192.0.2.7:25 ") == (
        ExitRule(accept=False, network=ip_network("192.0.2.7/32"), first_port=25, last_port=25),
    )
    assert parse_exit_rule("reject *:25") == (
        ExitRule(accept=False, network=ip_network("0.0.0.0/0"), first_port=25, last_port=25),
        ExitRule(accept=False, network=ip_network("::/0"), first_port=25, last_port=25),
    )


def test_formatted_rules_read_back_as_themselves():
    lines = format_exit_rules(RICH.rules)
    assert lines == [
        "reject *:25",
        "accept 203.0.114.0/24:80-443",
        "accept [2a00:db8::]/33:*",
        "accept 192.0.2.7/32:53",
    ]
    assert tuple(rule for line in lines for rule in parse_exit_rule(line)) == RICH.rules


def test_families_that_differ_are_not_formatted_as_star():
    rules = parse_exit_rule("accept 0.0.0.0/0:80") + parse_exit_rule("accept [::]/0:81")
    assert format_exit_rules(rules) == ["accept 0.0.0.0/0:80", "accept [::]/0:81"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "'accept' or 'reject'"),
        ("allow *:*", "'accept' or 'reject'"),
        ("accept *", "its ports"),
        ("accept example.org:80", "for example"),
        ("accept 2a00:db8::/32:*", "[2001:db8::]/32"),
        ("accept 203.0.114.9/24:80", "bits set beyond it"),
        ("accept 203.0.114.0/33:80", "no valid network"),
        ("accept 203.0.113:80", "no valid network"),
        ("accept [203.0.114.0::]/24:80", "no valid network"),
        ("accept *:443-80", "lower port first"),
        ("accept *:65536", "65535"),
        ("accept *:80,443", "its ports"),
        ("accept *:٨٠", "its ports"),
    ],
)
def test_unreadable_rule_is_answered_with_how_to_write_it(text, hint):
    with pytest.raises(ConfigurationError) as caught:
        parse_exit_rule(text)
    assert hint in str(caught.value)
    assert repr(text) in str(caught.value)
