"""The filters around the kernel's IPsec: what they let pass, judged by a stupid model."""

import ipaddress
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.special_networks import FORBIDDEN_NETWORKS
from overlay.system.exit_networks import ExitNetworks, exit_rules
from overlay.system.fragmenting_device import REROUTE_MARK
from overlay.system.ipsec_firewall import wall_rules
from overlay.system.iptables import render_iptables
from overlay.system.kill_switch import ipsec_kill_switch_filter
from overlay.system.marks import ANSWER_MARK, LARGE_MARK
from overlay.system.nftables import render_nftables
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict, silently
from overlay.system.rtnetlink import Route, RouteKind

MARK = 0x6D69
POOL4, POOL6 = ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")
INNER = {4: "100.64.0.2", 6: "fd99::2"}
OVERLAY, CIRCUIT = "fd6d:6978::1", "fd63:6972::1"
OUTSIDE = "2a00:db8::7"
FINAL = {Verdict.ACCEPT, Verdict.DROP, Verdict.REFUSE}
ENDED = {Verdict.DROP, Verdict.REFUSE}
NORMALISED = {
    4: [
        Verdict.HOP_LIMIT,
        Verdict.TRAFFIC_CLASS,
        Verdict.DONT_FRAGMENT,
        Verdict.IDENTIFICATION,
    ],
    6: [Verdict.HOP_LIMIT, Verdict.TRAFFIC_CLASS, Verdict.FLOW_LABEL],
}


@dataclass
class Packet:
    source: str
    destination: str
    in_device: str = "eth0"
    out_device: str = "eth0"
    protocol: int = 6
    port: int | None = 443
    ipsec_in: bool = False
    ipsec_out: bool = False
    reply: bool = False
    unknown: bool = False
    redirected: bool = False
    labelled: bool = False
    mark: int = 0
    length: int = 60
    local: bool = False
    icmp_type: int | None = None
    reply_destination: str | None = None


def verdict(rules, hook, packet):
    """Return the first final verdict, and what was done to the packet before."""
    done = []
    for rule in rules:
        if rule.hook is hook and matches(rule, packet):
            if rule.verdict in FINAL:
                return rule.verdict, done
            done.append(rule.verdict)
    return Verdict.ACCEPT, done


def matches(rule, packet):
    source, destination = map(ipaddress.ip_address, (packet.source, packet.destination))
    has_port = packet.protocol in (6, 17) and packet.port is not None
    return all(
        (
            rule.ip_version in (None, source.version),
            rule.source is None or source in rule.source,
            rule.destination is None or destination in rule.destination,
            rule.in_device in (None, packet.in_device),
            rule.out_device is None or fnmatch(packet.out_device, rule.out_device),
            rule.protocol in (None, packet.protocol),
            rule.ports is None or (has_port and rule.ports[0] <= packet.port <= rule.ports[1]),
            rule.ipsec_in in (None, packet.ipsec_in),
            rule.ipsec_out in (None, packet.ipsec_out),
            packet.reply or not rule.reply,
            packet.unknown or not rule.unknown,
            packet.redirected or not rule.redirected,
            packet.labelled or not rule.labelled,
            rule.at_most is None or packet.length <= rule.at_most,
            packet.mark == MARK or not rule.has_mark,
            rule.mark in (None, packet.mark),
            rule.longer_than is None or packet.length > rule.longer_than,
            packet.local or not rule.local,
            rule.icmp_type in (None, packet.icmp_type),
            rule.reply_destination is None
            or str(rule.reply_destination.network_address) == packet.reply_destination,
        )
    )


# -- the exit's policy -------------------------------------------------------------------

NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/0",
        "::/0",
        "203.0.114.0/24",
        "203.0.114.7/32",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "169.254.0.0/16",
        "169.254.169.254/32",
    )
]
DESTINATIONS = [
    "203.0.114.7",
    "203.0.114.8",
    "198.51.101.1",
    "10.1.2.3",
    "10.2.0.1",
    "169.254.169.254",
    OUTSIDE,
]
rules = st.builds(
    ExitRule,
    st.booleans(),
    st.sampled_from(NETWORKS),
    st.sampled_from([0, 80]),
    st.sampled_from([443, 65535]),
)
policies = st.builds(
    ExitPolicy,
    st.lists(rules, max_size=4).map(tuple),
    st.lists(st.sampled_from(NETWORKS[4:]), max_size=2).map(tuple),
)


def plan(policy):
    return ExitNetworks("anonsec0", (POOL4, POOL6), 1038, ("eth0",), policy, ("eth1",))


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


EVERYTHING = ExitPolicy(
    tuple(ExitRule(accept=True, network=network) for network in NETWORKS[:2]),
    (ipaddress.ip_network("fd00::/8"),),
)
EXIT = exit_rules(plan(EVERYTHING))


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


# -- the wall ----------------------------------------------------------------------------

WALL = wall_rules((6978, 6979), closed=True)
OPEN_WALL = wall_rules((6978, 6979), closed=False)


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
@pytest.mark.parametrize("hook", [Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING])
def test_nothing_to_or_from_the_overlays_addresses_is_ever_plain(ours, hook):
    for packet in (Packet(OUTSIDE, ours), Packet(ours, OUTSIDE)):
        assert verdict(WALL, hook, packet)[0] is Verdict.DROP
        packet.ipsec_in = packet.ipsec_out = True
        assert verdict(WALL, hook, packet)[0] is Verdict.ACCEPT


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
def test_every_layer_of_an_onion_is_normalised(ours):
    packet = Packet(CIRCUIT, ours, protocol=50, ipsec_out=True)
    assert verdict(WALL, Hook.POSTROUTING, packet) == (Verdict.ACCEPT, NORMALISED[6])


@pytest.mark.parametrize(
    ("rules", "packet"),
    [
        (WALL, Packet(CIRCUIT, OVERLAY, protocol=50, ipsec_out=True)),
        (EXIT, Packet(OUTSIDE, INNER[6], ipsec_out=True)),
        (EXIT, Packet(INNER[6], OUTSIDE)),
    ],
)
def test_a_flow_label_that_nothing_has_cleared_goes_nowhere(rules, packet):
    assert verdict(rules, Hook.POSTROUTING, packet)[0] is Verdict.ACCEPT
    assert verdict(rules, Hook.POSTROUTING, replace(packet, labelled=True))[0] is Verdict.DROP


@pytest.mark.parametrize(
    ("protocol", "port", "expected"),
    [
        (50, None, Verdict.ACCEPT),
        (17, 6978, Verdict.ACCEPT),
        (17, 6979, Verdict.ACCEPT),
        (17, 53, Verdict.DROP),
        (6, 22, Verdict.DROP),
        (58, None, Verdict.DROP),
    ],
)
def test_overlay_addresses_answer_to_esp_and_control_alone(protocol, port, expected):
    packet = Packet(CIRCUIT, OVERLAY, protocol=protocol, port=port, ipsec_in=True)
    assert verdict(WALL, Hook.INPUT, packet)[0] is expected


def test_the_control_ports_are_closed_to_everybody_outside_ipsec():
    assert verdict(WALL, Hook.INPUT, Packet(OUTSIDE, "2a00:db8::1", protocol=17, port=6979))[0] is (
        Verdict.DROP
    )


def test_a_host_that_forwarded_for_nobody_still_does_not():
    others = Packet(OUTSIDE, "2a00:db8:9::9")
    assert verdict(WALL, Hook.FORWARD, others)[0] is Verdict.DROP
    assert verdict(OPEN_WALL, Hook.FORWARD, others)[0] is Verdict.ACCEPT


CUTTING_WALL = wall_rules((6978, 6979), closed=True, cuts_links=True)


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
@pytest.mark.parametrize(
    ("length", "ipsec_in", "done"),
    [(1281, True, [Verdict.LARGE]), (1280, True, []), (1281, False, [])],
)
def test_what_fits_no_link_is_marked_on_its_way_through_circuits(ours, length, ipsec_in, done):
    packet = Packet(CIRCUIT, ours, protocol=50, length=length, ipsec_in=ipsec_in)
    assert verdict(CUTTING_WALL, Hook.PREROUTING, packet)[1] == done
    assert verdict(WALL, Hook.PREROUTING, packet)[1] == []


# -- the kill switch ---------------------------------------------------------------------------

WIDE, NARROW = ipaddress.ip_network("198.51.0.0/16"), ipaddress.ip_network("198.51.101.0/24")
KILL_SWITCH = ipsec_kill_switch_filter(
    "guard-1",
    MARK,
    [
        Route(WIDE, RouteKind.UNREACHABLE, 1, 9),
        Route(
            WIDE, RouteKind.UNICAST, 1, 1, "anonsec0", ipaddress.ip_address(INNER[4]), 1038
        ),
        Route(NARROW, RouteKind.UNREACHABLE, 1, 9),
    ],
).rules  # fmt: skip


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


CUT_KILL_SWITCH = ipsec_kill_switch_filter(
    "guard-1",
    MARK,
    [
        Route(WIDE, RouteKind.UNREACHABLE, 1, 9),
        Route(
            WIDE, RouteKind.UNICAST, 1, 1, "anonfrag0", ipaddress.ip_address(INNER[4]), 1038, True
        ),
    ],
).rules  # fmt: skip


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(INNER[4], "198.51.7.7", out_device="anonfrag0"), Verdict.ACCEPT),
        (Packet(INNER[4], "198.51.7.7", mark=REROUTE_MARK, ipsec_out=True), Verdict.ACCEPT),
        (Packet(INNER[4], "198.51.7.7", mark=REROUTE_MARK), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=REROUTE_MARK), Verdict.DROP),
        (Packet("192.0.2.1", "198.51.7.7", mark=REROUTE_MARK, ipsec_out=True), Verdict.ACCEPT),
        (Packet("192.0.2.1", "198.51.7.7", ipsec_out=True), Verdict.DROP),
    ],
    ids=[
        "on its way to be cut",
        "a fragment into its circuit",
        "a fragment without a policy",
        "the mark alone",
        "another circuit's answer, inside the destination",
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


# -- in both languages -------------------------------------------------------------------


def test_nftables_and_iptables_say_it_in_their_words():
    kill_switch, wall = FilterTable("guard-1", MARK, KILL_SWITCH), FilterTable("ipsec", MARK, WALL)
    nft = render_nftables(kill_switch)
    assert "ip saddr 100.64.0.2/32 ip daddr 198.51.0.0/16 rt ipsec exists ip ttl set 64\n" in nft
    assert "rt ipsec exists tcp flags & (syn | rst) == syn reset tcp option timestamp\n" in nft
    assert "ct direction reply ct state established,related meta ipsec exists accept\n" in nft
    assert "fib daddr type local meta ipsec exists drop\n" in nft
    assert "meta l4proto 17 th dport 6979-6979 meta ipsec missing drop\n" in render_nftables(wall)
    legacy = render_iptables(kill_switch, 4)
    out = "-s 100.64.0.2/32 -d 198.51.0.0/16 -m policy --dir out --pol ipsec"
    assert f"{out} -j TTL --ttl-set 64\n" in legacy
    assert f"{out} -j TOS --set-tos 0x00/0xff\n" in legacy
    assert "-m addrtype --dst-type LOCAL -m policy --dir in --pol ipsec -j DROP\n" in legacy
    assert "-p udp --dport 6979:6979 -m policy --dir in --pol none -j DROP\n" in render_iptables(
        wall, 6
    )
    assert "HL --hl-set 64" not in legacy


def test_what_is_cut_is_said_in_both_languages():
    kill_switch, wall = (
        FilterTable("guard-1", MARK, CUT_KILL_SWITCH),
        FilterTable("ipsec", MARK, CUTTING_WALL),
    )
    assert "meta nfproto ipv4 meta mark 0x6d66 rt ipsec exists accept\n" in render_nftables(
        kill_switch
    )
    assert "meta length > 1280 meta ipsec exists meta mark set 0x10000\n" in render_nftables(wall)
    assert "-m mark --mark 0x6d66 -m policy --dir out --pol ipsec -j ACCEPT\n" in render_iptables(
        kill_switch, 4
    )
    assert (
        "-d fd63:6972::/32 -m length --length 1281:65535 -m policy --dir in --pol ipsec "
        "-j MARK --set-mark 0x10000\n"
    ) in render_iptables(wall, 6)


def test_missing_jumps_are_hooked_in_with_the_rules():
    script = render_iptables(
        FilterTable("guard-1", MARK, KILL_SWITCH), 4, [("mangle", "POSTROUTING", "AO-guard-1-POST")]
    )
    assert script.index("-I POSTROUTING 1 -j AO-guard-1-POST\n") > script.index(
        ":AO-guard-1-POST - [0:0]\n"
    )


REFUSING = FilterTable("exit", MARK, (Rule(hook=Hook.FORWARD, verdict=Verdict.REFUSE, version=4),))


def test_what_is_refused_is_shown_at_a_limited_rate_and_dropped_always():
    nft = render_nftables(REFUSING)
    show = "limit rate 20/second burst 20 packets log group 6978 queue-threshold 1\n"
    assert f"meta nfproto ipv4 {show}    meta nfproto ipv4 drop\n" in nft
    legacy = render_iptables(REFUSING, 4)
    show = "-m limit --limit 20/sec --limit-burst 20 -j NFLOG --nflog-group 6978"
    chain = "-A AO-exit-FWD"
    assert f"{chain} {show} --nflog-threshold 1\n{chain} -j DROP\n" in legacy
    assert silently(REFUSING).rules == (replace(REFUSING.rules[0], verdict=Verdict.DROP),)


def test_circuits_do_not_learn_this_hosts_addresses_by_what_is_answered():
    """Each refusal of the policy is answered, whichever hook and rule it is made by."""
    own = Packet(INNER[4], "203.0.114.1", ipsec_in=True)
    assert verdict(EXIT, Hook.INPUT, own)[0] is Verdict.REFUSE
    for destination in ("192.168.1.1", "10.0.0.1", INNER[4], "203.0.114.7"):
        packet = Packet(INNER[4], destination, ipsec_in=True, out_device="eth2")
        assert verdict(EXIT, Hook.FORWARD, packet)[0] is Verdict.REFUSE


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
