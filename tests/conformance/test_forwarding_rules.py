"""What every registered set of forwarding rules promises the node."""

from __future__ import annotations

import ipaddress
import random

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.forwarding.rules import ForwardingRules
from overlay.plugins import load_plugin, plugin_names
from overlay.settings import read_settings

GROUP = "overlay.forwarding"
OWN = ipaddress.ip_address("203.0.114.1")
EVERYWHERE = ipaddress.ip_network("0.0.0.0/0")
POLICY = ExitPolicy(
    (
        ExitRule(accept=True, network=EVERYWHERE, first_port=443, last_port=443),
        ExitRule(accept=True, network=ipaddress.ip_network("2a00:db8::/32")),
    )
)
GOOD = [
    bytes(IP(src="100.64.0.7", dst="198.51.101.9") / TCP(dport=443, flags="A") / b"data"),
    bytes(IPv6(src="fd00::7", dst="2a00:db8::9") / UDP(dport=53) / b"data"),
]
GARBAGE = [b"", b"\x45", b"\x60" * 40, bytes(60), random.Random(1).randbytes(200)]


@pytest.fixture(params=plugin_names(GROUP))
def rules(request: pytest.FixtureRequest) -> ForwardingRules:
    plugin = load_plugin(GROUP, request.param)
    built: ForwardingRules = plugin(
        read_settings(f"forwarding.{request.param}", plugin.settings_type, {}),
        POLICY,
        lambda: frozenset((OWN.packed,)),
    )
    return built


def test_ours_are_registered() -> None:
    assert "standard" in plugin_names(GROUP)


def test_an_empty_batch_stays_empty(rules: ForwardingRules) -> None:
    assert rules.at_source([]) == []
    assert rules.at_exit([]) == []


def test_garbage_is_left_out_counted_and_the_rest_keeps_its_order(rules: ForwardingRules) -> None:
    mixed = [GARBAGE[0], GOOD[0], *GARBAGE[1:4], GOOD[1], GARBAGE[4]]
    left = rules.at_source(mixed)
    assert [packet[-4:] for packet in left] == [b"data", b"data"]
    assert [packet[0] >> 4 for packet in left] == [4, 6]
    before = sum(rules.counters().values())
    assert before >= len(GARBAGE)
    assert rules.at_exit(mixed) == GOOD
    assert sum(rules.counters().values()) > before


def test_the_exit_refuses_ports_itself_and_forbidden_ranges(rules: ForwardingRules) -> None:
    refused = [
        bytes(IP(dst="198.51.101.9") / TCP(dport=80)),
        bytes(IP(dst=str(OWN)) / TCP(dport=443)),
        bytes(IP(dst="10.0.0.1") / TCP(dport=443)),
        bytes(IP(dst="127.0.0.1") / TCP(dport=443)),
    ]
    assert rules.at_exit(refused) == []
