"""What the kill switch's and the exit's filter say, in both languages, without a kernel."""

import ipaddress

import pytest

from overlay.system.exit_networks import ExitNetworks, exit_gateway, exit_rules
from overlay.system.exit_probe import probe_address
from overlay.system.iptables import render_iptables
from overlay.system.kill_switch import ipsec_kill_switch_filter, kill_switch_filter
from overlay.system.marks import ANSWER_MARK
from overlay.system.nftables import render_bridge, render_nftables
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict
from overlay.system.rtnetlink import Route, RouteKind

MARK = 0x6D69
WIDE = ipaddress.ip_network("198.51.0.0/16")
NARROW = ipaddress.ip_network("198.51.100.0/24")
SIX = ipaddress.ip_network("2001:db8::/64")
POOL4, POOL6 = ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")


def unreachable(prefix):
    return Route(prefix, RouteKind.UNREACHABLE, 1, 9)


def carried(prefix, device, source):
    return Route(prefix, RouteKind.UNICAST, 1, 1, device, ipaddress.ip_address(source), 1300)


def verdict(table, *, out_device, destination, mark=0, source=None):
    """A stupid model of the postrouting hook."""
    address = ipaddress.ip_address(destination)
    for rule in table.rules:
        if rule.hook is not Hook.POSTROUTING:
            continue
        if rule.has_mark and mark != table.mark:
            continue
        if rule.mark not in (None, mark) or rule.protocol is not None:
            continue
        if rule.verdict not in (Verdict.ACCEPT, Verdict.DROP):
            continue
        if rule.out_device not in (None, out_device):
            continue
        if rule.destination is not None and address not in rule.destination:
            continue
        if rule.source is not None and (source is None or source not in rule.source):
            continue
        return rule.verdict
    return Verdict.ACCEPT


KILL_SWITCH = kill_switch_filter(
    "guard-1",
    MARK,
    [
        unreachable(WIDE),
        carried(WIDE, "anon0", "100.64.0.2"),
        unreachable(NARROW),
        unreachable(SIX),
        carried(SIX, "anon1", "fd99::2"),
    ],
)


@pytest.mark.parametrize(
    ("out_device", "destination", "mark", "expected"),
    [
        ("anon0", "198.51.7.7", 0, Verdict.DROP),  # not from this host's own address
        ("eth0", "198.51.7.7", 0, Verdict.DROP),
        ("anon1", "198.51.7.7", 0, Verdict.DROP),
        ("anon0", "198.51.100.7", 0, Verdict.DROP),
        ("eth0", "198.51.100.7", 0, Verdict.DROP),
        ("eth0", "198.51.100.7", MARK, Verdict.ACCEPT),
        ("eth0", "198.51.100.7", MARK + 1, Verdict.DROP),
        ("eth0", "198.51.100.7", ANSWER_MARK, Verdict.ACCEPT),
        ("eth0", "192.0.0.8", ANSWER_MARK, Verdict.ACCEPT),  # to a stranger with that address
        ("eth0", "192.0.0.8", 0, Verdict.DROP),
        ("eth0", "100:0:0:1::8", 0, Verdict.DROP),
        ("lo", "198.51.100.7", 0, Verdict.ACCEPT),
        ("anon1", "2001:db8::7", 0, Verdict.DROP),
        ("eth0", "2001:db8::7", 0, Verdict.DROP),
        ("eth0", "2001:db8:1::7", 0, Verdict.ACCEPT),
        ("eth0", "203.0.113.1", 0, Verdict.ACCEPT),
    ],
)
def test_the_kill_switch_holds_each_destination_to_its_device(
    out_device, destination, mark, expected
):
    assert (
        verdict(KILL_SWITCH, out_device=out_device, destination=destination, mark=mark) is expected
    )


@pytest.mark.parametrize(
    ("out_device", "destination", "mark", "expected"),
    [
        ("anon0", "198.51.7.7", 0, Verdict.ACCEPT),
        ("eth0", "198.51.7.7", 0, Verdict.DROP),
        ("eth0", "203.0.113.1", 0, Verdict.DROP),
        ("eth0", "203.0.113.1", ANSWER_MARK, Verdict.ACCEPT),  # forwarded; a stranger's
        ("anon0", "203.0.113.1", 0, Verdict.DROP),
        ("lo", "203.0.113.1", 0, Verdict.ACCEPT),
    ],
)
def test_the_kill_switch_lets_an_inner_address_speak_into_its_circuit_alone(
    out_device, destination, mark, expected
):
    inner = ipaddress.ip_address("100.64.0.2")
    found = verdict(
        KILL_SWITCH, out_device=out_device, destination=destination, mark=mark, source=inner
    )
    assert found is expected


@pytest.mark.parametrize("rules_of", [kill_switch_filter, ipsec_kill_switch_filter])
def test_no_packet_of_this_host_answers_from_an_inner_address(rules_of):
    rules = rules_of("guard-1", MARK, [carried(WIDE, "anon0", "100.64.0.2")]).rules
    own = ipaddress.ip_network("100.64.0.2")
    refused = Rule(hook=Hook.OUTPUT, verdict=Verdict.DROP, source=own, mark=ANSWER_MARK)
    marking = [r for r in rules if r.hook is Hook.OUTPUT and r.verdict is Verdict.ANSWER]
    assert rules.index(refused) > max(map(rules.index, marking))


@pytest.mark.parametrize("rules_of", [kill_switch_filter, ipsec_kill_switch_filter])
def test_the_input_hook_drops_what_is_to_an_inner_address_in_the_clear(rules_of):
    rules = rules_of("guard-1", MARK, [carried(WIDE, "anon0", "100.64.0.2")]).rules
    last = [r for r in rules if r.hook is Hook.INPUT and not r.verdict.translates][-1]
    assert last.verdict is Verdict.DROP
    assert str(last.destination) == "100.64.0.2/32"
    assert last.mark is None  # other programs overwrite marks


def test_a_carrying_device_that_is_gone_lets_nothing_through():
    orphan = Route(WIDE, RouteKind.UNICAST, 1, 1, None)
    table = kill_switch_filter("guard-1", MARK, [unreachable(WIDE), orphan])
    assert verdict(table, out_device="anon0", destination="198.51.7.7") is Verdict.DROP


def arriving(table, **packet):
    """What becomes of a packet before its destination is translated, and its mark then."""
    facts = {"in_device": "eth0", "reply": False, "unknown": False, "reply_destination": None}
    facts |= {"protocol": 6, "icmp_type": None, **packet}
    source, destination = (ipaddress.ip_address(facts[each]) for each in ("source", "destination"))
    mark, passed = 0, set()
    for rule in table.rules:
        same = rule.hook not in passed and all(
            (
                rule.hook in (Hook.EARLY, Hook.PREROUTING),
                rule.mark in (None, mark),
                rule.ip_version in (None, source.version),
                rule.in_device in (None, facts["in_device"]),
                rule.source is None or source in rule.source,
                rule.destination is None or destination in rule.destination,
                facts["reply"] or not rule.reply,
                facts["unknown"] or not rule.unknown,
                rule.reply_destination is None
                or str(rule.reply_destination.network_address) == facts["reply_destination"],
                rule.protocol in (None, facts["protocol"]),
                rule.icmp_type in (None, facts["icmp_type"]),
            )
        )
        if same and rule.verdict is Verdict.ANSWER:
            mark = ANSWER_MARK
        elif same and rule.hook is Hook.EARLY:
            passed.add(Hook.EARLY)
        elif same:
            return rule.verdict, mark
    return Verdict.ACCEPT, mark


DROPPED = (Verdict.DROP, 0)
ACCEPTED = (Verdict.ACCEPT, 0)
ANSWERED = (Verdict.ACCEPT, ANSWER_MARK)
D, E, OWN, VC = "198.51.7.7", "203.0.113.1", "192.0.2.1", "100.64.0.2"


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ({"source": D, "destination": OWN}, ANSWERED),
        ({"source": E, "destination": OWN}, ACCEPTED),
        ({"source": D, "destination": VC}, ANSWERED),
        ({"source": E, "destination": VC}, ANSWERED),
        ({"source": VC, "destination": OWN}, ANSWERED),
        ({"source": "192.0.0.8", "destination": OWN}, ANSWERED),
        ({"source": E, "destination": VC, "in_device": "anon1"}, DROPPED),
        ({"source": E, "destination": VC, "in_device": "lo"}, ACCEPTED),
        ({"source": D, "destination": VC, "in_device": "anon0"}, DROPPED),
        ({"source": D, "destination": VC, "in_device": "anon0", "reply": True}, ACCEPTED),
        ({"source": D, "destination": OWN, "in_device": "anon0"}, DROPPED),
        ({"source": E, "destination": D, "in_device": "docker0"}, ACCEPTED),
        ({"source": E, "destination": D, "in_device": "docker0", "reply": True}, ACCEPTED),
        (
            {"source": E, "destination": D, "in_device": "docker0", "reply": True, "protocol": 1},
            ANSWERED,
        ),
        ({"source": E, "destination": "192.0.0.8", "in_device": "docker0"}, ACCEPTED),
        (
            {"source": E, "destination": "192.0.0.8", "in_device": "docker0", "reply": True},
            ANSWERED,
        ),
    ],
)
def test_the_kill_switch_lets_in_and_marks(packet, expected):
    assert arriving(KILL_SWITCH, **packet) == expected


@pytest.mark.parametrize("icmp_type", [3, 4, 5, 11, 12])
def test_errors_in_the_clear_never_reach_a_circuit(icmp_type):
    error = {"source": E, "destination": OWN, "protocol": 1, "icmp_type": icmp_type}
    assert arriving(KILL_SWITCH, **error, unknown=True)[0] is Verdict.DROP
    assert arriving(KILL_SWITCH, **error, reply_destination=VC)[0] is Verdict.DROP
    assert arriving(KILL_SWITCH, **error) == ANSWERED
    assert arriving(KILL_SWITCH, **error, in_device="anon0", reply=True) == ACCEPTED


def test_the_nodes_own_ports_see_the_protected_host_itself():
    table = kill_switch_filter("guard-1", MARK, [unreachable(WIDE)], own_ports=(4500, 0, 65535))
    rules = [r for r in table.rules if r.verdict is Verdict.STAND_IN and r.hook is Hook.INPUT]
    assert [rule.ports for rule in rules] == [(0, 4499), (4501, 65534)]


@pytest.mark.parametrize(
    "line",
    [
        "type filter hook prerouting priority -450; policy accept;",
        "type filter hook prerouting priority mangle; policy accept;",
        'iifname "anon0" ct direction reply ct state established,related accept',
        'iifname "anon0" drop',
        "meta nfproto ipv4 ip daddr 100.64.0.2/32 drop",
        "meta nfproto ipv6 ct reply ip6 daddr fd99::2/128 meta l4proto 58 icmpv6 type 2 drop",
        "meta nfproto ipv4 ip saddr 198.51.100.0/24 meta mark set 0x26d69",
        "meta nfproto ipv4 ct state invalid,untracked fib daddr type local "
        "meta l4proto 1 icmp type 3 drop",
        "type filter hook output priority mangle; policy accept;",
        "type filter hook postrouting priority filter; policy accept;",
        "meta mark 0x6d69 accept",
        'meta nfproto ipv6 oifname "anon1" ip6 saddr fd99::2/128 ip6 daddr 2001:db8::/64 accept',
        "meta nfproto ipv6 ip6 daddr 2001:db8::/64 drop",
        "type nat hook input priority 100; policy accept;",
        "meta nfproto ipv4 ip saddr 198.51.0.0/16 meta l4proto 17 "
        "th dport 0-65535 snat ip to 192.0.0.8",
        "type nat hook postrouting priority srcnat; policy accept;",
    ],
)
def test_nftables_replaces_the_kill_switch_in_one_transaction(line):
    script = render_nftables(KILL_SWITCH)
    name = "anonymous_overlay_guard_1"
    start = f"table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n"
    assert script.startswith(start)
    assert f"    {line}\n" in script


def test_nftables_marks_frames_that_a_bridge_passes_on_before_all_else():
    script = render_bridge(KILL_SWITCH)
    assert "type filter hook prerouting priority -300; policy accept;" in script
    assert "    meta pkttype other meta mark set 0x46d69\n" in script
    assert "0x46d69" not in render_bridge(FilterTable("exit", MARK, ()))
    first = [
        KILL_SWITCH.rules[[r.hook for r in KILL_SWITCH.rules].index(h)]
        for h in (Hook.EARLY, Hook.PREROUTING)
    ]
    assert [(rule.verdict, rule.mark) for rule in first] == [(Verdict.ACCEPT, 0x46D69)] * 2


def test_iptables_gets_the_rules_of_its_own_ip_version_alone():
    four, six = render_iptables(KILL_SWITCH, 4), render_iptables(KILL_SWITCH, 6)
    assert "2001:db8" not in four
    assert "198.51" not in six
    for script in (four, six):
        assert script.startswith("*mangle\n:AO-guard-1-PRE - [0:0]\n")
        assert "-A AO-guard-1-POST -m mark --mark 0x6d69 -j ACCEPT\n" in script
    assert "-A AO-guard-1-POST -o anon0 -s 100.64.0.2/32 -d 198.51.0.0/16 -j ACCEPT\n" in four
    assert "-A AO-guard-1-IN -d fd99::2/128 -j DROP\n" in six
    assert "*raw\n:AO-guard-1-RAW - [0:0]\n" in four
    assert "-A AO-guard-1-RAW -i lo -j ACCEPT\n" in four
    for script in (four, six):
        is_bridged = "-m physdev --physdev-is-bridged -j MARK --set-mark 0x46d69"
        assert f"-A AO-guard-1-FWD {is_bridged}\n" in script
    assert "-A AO-guard-1-RAW -s 198.51.0.0/16 -j MARK --set-mark 0x26d69\n" in four
    assert "-m conntrack --ctdir REPLY --ctstate ESTABLISHED,RELATED -j ACCEPT\n" in six
    assert "-p ipv6-icmp --icmpv6-type 137 -j MARK --set-mark 0x26d69\n" in six
    assert "-p udp --dport 0:65535 -j SNAT --to-source 192.0.0.8\n" in four


def test_chain_names_fit_iptables_for_every_table_number():
    masquerade = Rule(hook=Hook.POSTROUTING, verdict=Verdict.MASQUERADE, source=POOL4)
    table = FilterTable(f"guard-{0xFFFFFFFF}", MARK, (masquerade,))
    names = [line[1:].split()[0] for line in render_iptables(table, 4).splitlines() if ":" in line]
    assert len(names) >= 6
    assert max(map(len, names)) <= 28


EXIT = FilterTable(
    "exit",
    MARK,
    exit_rules(ExitNetworks("exit0", (POOL4, POOL6), 1280, ("eth0", "wan1"))),
    ("net/ipv4/conf/eth0/forwarding=0",),
)


def test_the_exit_masquerades_each_pool_on_each_outward_device():
    script = render_nftables(EXIT)
    for line in (
        'meta nfproto ipv4 oifname "eth0" ip saddr 100.64.0.0/10 masquerade',
        'meta nfproto ipv4 oifname "wan1" ip saddr 100.64.0.0/10 masquerade',
        'meta nfproto ipv6 oifname "eth0" ip6 saddr fd99::/64 masquerade',
        'meta nfproto ipv6 oifname "wan1" ip6 saddr fd99::/64 masquerade',
    ):
        assert line in script
    for version, pool in ((4, POOL4), (6, POOL6)):
        assert f"-A AO-exit-NAT -o wan1 -s {pool} -j MASQUERADE" in render_iptables(EXIT, version)


def test_the_exit_drops_whatever_it_did_not_accept_before():
    probes = {ipaddress.ip_network(probe_address(pool)) for pool in (POOL4, POOL6)}
    forwarded = [r for r in EXIT.rules if r.hook is Hook.FORWARD and r.source not in probes]
    outward = [rule for rule in forwarded if rule.in_device == "exit0"]
    inward = [rule for rule in forwarded if rule.out_device == "exit0"]
    assert outward[-1].verdict is inward[-1].verdict is Verdict.DROP
    assert [r.reply for r in inward if r.verdict is Verdict.ACCEPT] == [True]
    assert {r.out_device for r in outward if r.verdict is Verdict.ACCEPT} == {"eth0", "wan1"}


def test_the_exit_refuses_what_connection_tracking_does_not_know_before_it_accepts():
    script = render_nftables(EXIT)
    unknown = "meta nfproto ipv4 ip saddr 100.64.0.0/10 ct state invalid,untracked drop"
    assert script.index(unknown) < script.index('iifname "exit0" oifname "eth0" accept')
    legacy = render_iptables(EXIT, 6)
    unknown = f"-s {POOL6} -m conntrack --ctstate INVALID,UNTRACKED -j DROP"
    assert legacy.index(unknown) < legacy.index("-i exit0 -o eth0 -j ACCEPT")


def test_after_translation_no_pool_address_leaves_except_into_circuits():
    script = render_nftables(EXIT)
    assert (
        "  chain leaving {\n"
        "    type filter hook postrouting priority srcnat + 10; policy accept;\n"
        '    oifname "lo" accept\n'
        '    oifname "anon*" accept\n'
        '    oifname "exit0" accept\n'
        "    meta nfproto ipv4 ip saddr 100.64.0.0/10 drop\n"
        "    meta nfproto ipv6 ip6 saddr fd99::/64 drop\n"
    ) in script
    assert "anon" not in render_iptables(EXIT, 4), "iptables has no place after translation"


def test_headers_are_made_alike_in_the_words_of_each_filter():
    script = render_nftables(EXIT)
    out = "meta nfproto ipv6 ip6 saddr fd99::/64"
    assert f"{out} ip6 hoplimit set 64\n" in script
    assert f"{out} ip6 dscp set cs0 ip6 ecn set not-ect\n" in script
    assert f"{out} ip6 flowlabel set 0\n" in script
    segments = 'oifname "exit0" tcp flags & (syn | rst) == syn tcp option maxseg size set'
    assert f"meta nfproto ipv4 {segments} 998\n" in script
    assert f"meta nfproto ipv6 {segments} 978\n" in script
    assert "-o exit0 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 978" in render_iptables(
        EXIT, 6
    )
    back = 'meta nfproto ipv4 oifname "exit0" ip daddr 100.64.0.0/10'
    atomic = f"{back} meta length <= 1280 ip frag-off & 0x7fff == 0x0 ip frag-off set 0x4000\n"
    assert script.index(atomic) < script.index(
        f"{back} ip frag-off & 0x7fff == 0x4000 ip id set 0\n"
    )
    four, six = render_iptables(EXIT, 4), render_iptables(EXIT, 6)
    assert "-A AO-exit-POST -o exit0 -d 100.64.0.0/10 -j TTL --ttl-set 64\n" in four
    assert "-A AO-exit-POST -s fd99::/64 -j HL --hl-set 64\n" in six
    assert "-A AO-exit-POST -s fd99::/64 -j TOS --set-tos 0x00/0xff\n" in six
    assert "u32" not in six, "a program of the userspace backend clears what comes in"


def test_a_flow_label_is_refused_in_the_words_of_each_filter():
    rule = Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, version=6, labelled=True)
    table = FilterTable("exit", MARK, (rule,))
    assert "meta nfproto ipv6 ip6 flowlabel != 0 drop\n" in render_nftables(table)
    refused = '-A AO-exit-POST -m u32 --u32 "0&0xFFFFF=1:0xFFFFF" -j DROP\n'
    assert refused in render_iptables(table, 6)
    assert "u32" not in render_iptables(table, 4)


def test_an_exit_of_one_ip_version_drops_the_other_at_its_door():
    rules = exit_rules(ExitNetworks("exit0", (POOL4,), 1280, ("eth0",)))
    expected = Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, in_device="exit0", version=6)
    assert expected in rules
    table = FilterTable("exit", MARK, rules)
    assert 'meta nfproto ipv6 iifname "exit0" drop' in render_nftables(table)
    assert "-A AO-exit-PRE -i exit0 -j DROP" in render_iptables(table, 6)
    assert "-A AO-exit-PRE -i exit0 -j DROP" not in render_iptables(table, 4)


def test_notes_are_kept_in_a_chain_of_their_own():
    note = "net/ipv4/conf/eth0/forwarding=0"
    assert f'return comment "{note}"' in render_nftables(EXIT)
    assert f'-A AO-exit-NOTES -m comment --comment "{note}" -j RETURN' in render_iptables(EXIT, 4)


def test_the_exits_own_inner_address_is_the_first_of_the_pool():
    assert str(exit_gateway(POOL4)) == "100.64.0.1"
    assert str(exit_gateway(POOL6)) == "fd99::1"


def test_a_probe_has_the_mark_of_circuits_and_counts_on_the_way_out_alone():
    script = render_nftables(EXIT)
    probe = f'meta nfproto ipv4 iifname "exit0" ip saddr {probe_address(POOL4)}'
    marked = next(line for line in script.splitlines() if line.strip().startswith(probe))
    assert "mark set 0x6d69" in marked
    ends = [r for r in EXIT.rules if r.hook is Hook.POSTROUTING and r.verdict is Verdict.DROP]
    ends = [r for r in ends if str(r.source) == f"{probe_address(POOL4)}/32"]
    assert [(r.out_device, r.counted) for r in ends] == [
        ("eth0", True), ("wan1", True), (None, False)
    ]  # fmt: skip


def test_each_ip_version_leaves_by_its_own_devices():
    plan = ExitNetworks("exit0", (POOL4, POOL6), 1280, ("tun0",), outward6=("eth0",))
    accepted = {
        (rule.version, rule.out_device)
        for rule in exit_rules(plan)
        if rule.hook is Hook.FORWARD
        and rule.verdict is Verdict.ACCEPT
        and rule.out_device
        and rule.in_device == "exit0"
    }
    assert accepted == {(4, "tun0"), (6, "eth0")}
    translated = {
        (rule.source, rule.out_device)
        for rule in exit_rules(plan)
        if rule.verdict is Verdict.MASQUERADE
    }
    assert translated == {(POOL4, "tun0"), (POOL6, "eth0")}


def test_what_forwarded_nothing_before_forwards_for_circuits_alone():
    plan = ExitNetworks("exit0", (POOL4, POOL6), 1280, ("eth0",), closed=("eth0",), closed6=True)
    last = [rule for rule in exit_rules(plan) if rule.hook is Hook.FORWARD][-2:]
    assert last == [
        Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, version=4, in_device="eth0"),
        Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, version=6, not_in_device="exit0"),
    ]
