"""The exit's filter of the kernel backend, packet by packet."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipsec_filter_packets import (
    CIRCUIT,
    EVERYTHING,
    EXIT,
    INNER,
    NETWORKS,
    NORMALISED,
    OUTSIDE,
    OVERLAY,
    Packet,
    plan,
    rules,
    verdict,
)

from overlay.exit_policy import ExitPolicy
from overlay.special_networks import FORBIDDEN_NETWORKS
from overlay.system.exit_networks import exit_rules
from overlay.system.packet_filter import Hook, Verdict

ENDED = {Verdict.DROP, Verdict.REFUSE}
DESTINATIONS = [
    "203.0.114.7",
    "203.0.114.8",
    "198.51.101.1",
    "10.1.2.3",
    "10.2.0.1",
    "169.254.169.254",
    OUTSIDE,
]


policies = st.builds(
    ExitPolicy,
    st.lists(rules, max_size=4).map(tuple),
    st.lists(st.sampled_from(NETWORKS[4:]), max_size=2).map(tuple),
)


@pytest.mark.slow
@given(policies, st.sampled_from(DESTINATIONS), st.sampled_from([(6, 80), (17, 500), (1, None)]))
def test_the_filter_permits_what_the_exit_policy_permits(policy, destination, kind):
    protocol, port = kind
    address = ipaddress.ip_address(destination)
    packet = Packet(
        INNER[address.version], destination, protocol=protocol, port=port, ipsec_in=True
    )
    found, _ = verdict(exit_rules(plan(policy)), Hook.FORWARD, packet)
    assert (found is Verdict.ACCEPT) is policy.permits(address, port)


@pytest.mark.parametrize("destination", [OVERLAY, CIRCUIT, "fd99::9"])
def test_no_policy_opens_the_overlay_or_another_circuit(destination):
    assert EVERYTHING.permits(ipaddress.ip_address(destination), 443)
    packet = Packet(INNER[6], destination, ipsec_in=True)
    assert verdict(EXIT, Hook.FORWARD, packet)[0] is Verdict.REFUSE


@pytest.mark.parametrize(
    ("hook", "packet"),
    [
        (Hook.INPUT, Packet(INNER[4], "203.0.114.1", ipsec_in=True)),
        (Hook.FORWARD, Packet(INNER[4], "203.0.114.7", ipsec_in=True, out_device="eth2")),
        (Hook.FORWARD, Packet("203.0.114.7", INNER[4], ipsec_out=True)),
        (Hook.FORWARD, Packet("203.0.114.7", INNER[4], reply=True)),
        (Hook.FORWARD, Packet("203.0.114.7", "198.51.101.1", in_device="eth1")),
        (Hook.PREROUTING, Packet("203.0.114.7", INNER[4])),
        (Hook.PREROUTING, Packet(INNER[4], "203.0.114.7")),
        (Hook.FORWARD, Packet(INNER[4], "203.0.114.7", ipsec_in=True, unknown=True)),
        (Hook.FORWARD, Packet(INNER[4], "203.0.114.7", ipsec_in=True, redirected=True)),
        (Hook.LEAVING, Packet(INNER[4], "203.0.114.7", ipsec_in=True)),
        (Hook.LEAVING, Packet(INNER[6], OUTSIDE, out_device="eth7")),
    ],
    ids=[
        "this host itself",
        "a device that is no way out",
        "a packet that nobody asked for",
        "an answer in the clear",
        "others over a device that did not forward",
        "to an inner address in the clear",
        "from an inner address in the clear",
        "what connection tracking does not know",
        "a destination that was translated",
        "what was not translated",
        "the exit's own address in the pool, over any device",
    ],
)
def test_the_exit_refuses(hook, packet):
    assert verdict(EXIT, hook, packet)[0] in ENDED


def test_the_exit_lets_answers_back_into_ipsec():
    packet = Packet("203.0.114.7", INNER[4], reply=True, ipsec_out=True)
    assert verdict(EXIT, Hook.FORWARD, packet) == (Verdict.ACCEPT, [Verdict.CLAMP_MSS])


@pytest.mark.parametrize(
    "packet",
    [
        Packet("192.0.2.9", "203.0.113.7"),
        Packet(INNER[4], "100.64.0.9", ipsec_out=True),
        Packet(INNER[4], "203.0.113.7", out_device="anon0"),
        Packet(INNER[4], INNER[4], out_device="lo"),
    ],
    ids=["translated", "into a circuit", "this node's own path, by another exit", "to itself"],
)
def test_what_is_translated_or_enters_a_circuit_leaves(packet):
    assert verdict(EXIT, Hook.LEAVING, packet)[0] is Verdict.ACCEPT


@pytest.mark.parametrize("version", [4, 6])
def test_the_exit_normalises_in_both_directions(version):
    outside = "203.0.113.7" if version == 4 else OUTSIDE
    for packet in (
        Packet(INNER[version], outside),
        Packet(outside, INNER[version], ipsec_out=True),
        Packet(outside, INNER[version], out_device="anonfrag0"),
    ):
        found, done = verdict(EXIT, Hook.POSTROUTING, packet)
        assert found is Verdict.ACCEPT
        assert [each for each in done if each is not Verdict.MASQUERADE] == NORMALISED[version]


def test_a_large_answer_that_must_be_cut_keeps_its_identification():
    packet = Packet("203.0.113.7", INNER[4], length=1039)
    assert Verdict.DONT_FRAGMENT not in verdict(EXIT, Hook.POSTROUTING, packet)[1]


CUT_EXIT = exit_rules(replace(plan(EVERYTHING), fragmenting="anonfrag0"))


@pytest.mark.parametrize(
    ("version", "device", "ipsec_out", "reply", "expected"),
    [
        (4, "anonfrag0", False, True, Verdict.ACCEPT),
        (4, "anonfrag0", False, False, Verdict.DROP),
        (4, "eth1", False, True, Verdict.DROP),
        (6, "anonsec0", True, True, Verdict.ACCEPT),
        (6, "anonfrag0", False, True, Verdict.DROP),
    ],
)
def test_an_exit_that_cuts_lets_answers_to_the_device_that_does(
    version, device, ipsec_out, reply, expected
):
    outside = "203.0.114.7" if version == 4 else OUTSIDE
    packet = Packet(outside, INNER[version], out_device=device, ipsec_out=ipsec_out, reply=reply)
    found, done = verdict(CUT_EXIT, Hook.FORWARD, packet)
    assert found is expected
    assert found is not Verdict.ACCEPT or done == [Verdict.CLAMP_MSS]


def test_the_forbidden_networks_of_both_versions_are_named():
    named = {rule.destination for rule in EXIT if rule.verdict in ENDED}
    assert {network for network, _ in FORBIDDEN_NETWORKS} <= named


def test_an_exit_lets_tcp_send_what_needs_no_fragments():
    exits = replace(plan(EVERYTHING), mtu=1300)
    inwards = [rule for rule in exit_rules(exits) if rule.verdict is Verdict.CLAMP_MSS]
    assert [each.segment for each in inwards if each.destination] == [998, 978]
