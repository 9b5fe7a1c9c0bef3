"""The kill switch of the kernel backend, packet by packet."""

import ipaddress
from dataclasses import replace

import pytest
from ipsec_filter_packets import (
    CIRCUIT,
    CUT_KILL_SWITCH,
    INNER,
    KILL_SWITCH,
    MARK,
    NORMALISED,
    OUTSIDE,
    OVERLAY,
    WIDE,
    Packet,
    verdict,
)

from overlay.system.fragmenting_device import REROUTE_MARK
from overlay.system.kill_switch import ipsec_kill_switch_filter
from overlay.system.marks import ANSWER_MARK, LARGE_MARK
from overlay.system.packet_filter import Hook, Verdict
from overlay.system.rtnetlink import Route, RouteKind

LARGE_CUT = REROUTE_MARK | LARGE_MARK

BLOCKED_KILL_SWITCH = ipsec_kill_switch_filter(
    "guard-1", MARK, [Route(WIDE, RouteKind.UNREACHABLE, 1, 9)]
).rules  # fmt: skip


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(INNER[4], "198.51.7.7", ipsec_out=True), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", mark=ANSWER_MARK), Verdict.ACCEPT),
        (Packet("192.0.2.1", "192.0.0.8", mark=ANSWER_MARK), Verdict.ACCEPT),
        (Packet("192.0.2.1", "192.0.0.8"), Verdict.DROP),
        (Packet(INNER[4], "198.51.7.7"), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", ipsec_out=True), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7"), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=MARK), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", mark=MARK | LARGE_MARK), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", mark=LARGE_MARK), Verdict.DROP),
        (Packet(INNER[4], "198.51.101.7", ipsec_out=True), Verdict.DROP),
        (Packet(INNER[4], "203.0.114.1", mark=MARK), Verdict.DROP),
        (Packet("192.0.2.1", "203.0.114.1"), Verdict.ACCEPT),
    ],
)
def test_the_kill_switch_lets_out_what_ipsec_will_encapsulate_alone(packet, expected):
    assert verdict(KILL_SWITCH, Hook.POSTROUTING, packet)[0] is expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(INNER[4], "198.51.7.7", out_device="anonfrag0"), Verdict.ACCEPT),
        (Packet(INNER[4], "198.51.7.7", mark=REROUTE_MARK, ipsec_out=True), Verdict.ACCEPT),
        (Packet(INNER[4], "198.51.7.7", mark=REROUTE_MARK), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=REROUTE_MARK), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=REROUTE_MARK, ipsec_out=True), Verdict.ACCEPT),
        (Packet(INNER[4], "198.51.7.7", mark=LARGE_CUT, ipsec_out=True), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", mark=LARGE_CUT), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=LARGE_CUT, ipsec_out=True), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", ipsec_out=True), Verdict.DROP),
    ],
    ids=[
        "on its way to be cut",
        "a fragment into its circuit",
        "a fragment without a policy",
        "the mark alone",
        "another circuit's answer, inside the destination",
        "a large fragment into its circuit",
        "the mark of a large fragment alone",
        "another circuit's large answer, inside the destination",
        "another IPsec of this host",
    ],
)
def test_what_is_cut_passes_twice_and_leaves_through_ipsec_alone(packet, expected):
    assert verdict(CUT_KILL_SWITCH, Hook.POSTROUTING, packet)[0] is expected


def test_fragments_are_normalised_where_they_enter_the_circuit():
    fragment = Packet(INNER[4], "198.51.7.7", mark=REROUTE_MARK, ipsec_out=True)
    done = verdict(CUT_KILL_SWITCH, Hook.POSTROUTING, fragment)[1]
    assert done == [*NORMALISED[4], Verdict.STRIP_TIMESTAMPS]


def test_the_kill_switch_normalises_what_enters_a_circuit():
    packet = Packet(INNER[4], "198.51.7.7", ipsec_out=True)
    done = verdict(KILL_SWITCH, Hook.POSTROUTING, packet)[1]
    assert done == [*NORMALISED[4], Verdict.STRIP_TIMESTAMPS]


def test_inner_addresses_hear_answers_out_of_ipsec_alone():
    plain = Packet("198.51.7.7", INNER[4])
    assert verdict(KILL_SWITCH, Hook.INPUT, plain)[0] is Verdict.DROP
    spoofed = Packet(INNER[4], "198.51.7.7", mark=ANSWER_MARK, ipsec_out=True)
    assert verdict(KILL_SWITCH, Hook.FORWARD, spoofed)[0] is Verdict.DROP
    about = Packet("203.0.113.1", "192.0.2.1", reply_destination=INNER[4], protocol=1, icmp_type=3)
    assert verdict(KILL_SWITCH, Hook.PREROUTING, about)[0] is Verdict.DROP
    asked = Packet("198.51.7.7", INNER[4], ipsec_in=True, local=True, reply=True)
    assert verdict(KILL_SWITCH, Hook.PREROUTING, asked)[0] is Verdict.ACCEPT


@pytest.mark.parametrize("destination", [INNER[4], "100.64.7.7", "192.0.2.1"])
def test_no_inner_address_needs_to_be_known_to_refuse_what_nothing_here_began(destination):
    unasked = Packet("198.51.7.7", destination, ipsec_in=True, local=True)
    assert verdict(BLOCKED_KILL_SWITCH, Hook.PREROUTING, unasked)[0] is Verdict.DROP


def test_an_early_translation_of_another_program_leads_an_exit_to_no_host_behind_this_one():
    """With nftables it may come before the kill switch, which then sees no local address."""
    led = Packet("198.51.7.7", "172.17.0.2", ipsec_in=True, redirected=True)
    assert verdict(BLOCKED_KILL_SWITCH, Hook.PREROUTING, led)[0] is Verdict.DROP
    answer = replace(led, reply=True)
    assert verdict(BLOCKED_KILL_SWITCH, Hook.PREROUTING, answer)[0] is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("source", "destination", "local"),
    [(OVERLAY, CIRCUIT, True), (INNER[4], "203.0.113.1", False), (CIRCUIT, OVERLAY, False)],
)
def test_what_ipsec_brings_for_the_node_and_for_others_passes(source, destination, local):
    packet = Packet(source, destination, ipsec_in=True, local=local)
    assert verdict(BLOCKED_KILL_SWITCH, Hook.PREROUTING, packet)[0] is Verdict.ACCEPT


def test_what_was_inside_a_protected_peers_esp_is_no_answer():
    packet = Packet(OUTSIDE, INNER[6], ipsec_in=True, mark=ANSWER_MARK)
    assert verdict(BLOCKED_KILL_SWITCH, Hook.EARLY, packet) == (Verdict.ACCEPT, [Verdict.UNMARK])
    clear = Packet("198.51.7.7", "192.0.2.1")
    assert verdict(BLOCKED_KILL_SWITCH, Hook.EARLY, clear) == (Verdict.ACCEPT, [Verdict.ANSWER])


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_keeps_what_no_circuit_carries(version):
    everywhere = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    inner = ipaddress.ip_address(INNER[version])
    route = Route(everywhere, RouteKind.UNICAST, 1, 1, "anonsec0", inner, 1038)
    kill_switch = ipsec_kill_switch_filter("guard-1", MARK, [route]).rules
    for protocol in (6, 17, 1 if version == 4 else 58, 132, 253):
        destination = "203.0.114.7" if version == 4 else OUTSIDE
        packet = Packet(INNER[version], destination, protocol=protocol)
        wanted = Verdict.REFUSE if protocol > 100 else Verdict.ACCEPT
        assert verdict(kill_switch, Hook.OUTPUT, packet)[0] is wanted
