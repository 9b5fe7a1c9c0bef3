"""What the guard's and the exit's filter say, in both languages, without a kernel."""

import ipaddress

import pytest

from overlay.system.destination_guard import guard_filter
from overlay.system.exit_filter import ExitPlan, exit_gateway, exit_rules
from overlay.system.iptables import render_iptables
from overlay.system.nftables import render_nftables
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
        if rule.out_device not in (None, out_device):
            continue
        if rule.destination is not None and address not in rule.destination:
            continue
        if rule.source is not None and (source is None or source not in rule.source):
            continue
        return rule.verdict
    return Verdict.ACCEPT


GUARD = guard_filter(
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
        ("anon0", "198.51.7.7", 0, Verdict.ACCEPT),
        ("eth0", "198.51.7.7", 0, Verdict.DROP),
        ("anon1", "198.51.7.7", 0, Verdict.DROP),
        ("anon0", "198.51.100.7", 0, Verdict.DROP),
        ("eth0", "198.51.100.7", 0, Verdict.DROP),
        ("eth0", "198.51.100.7", MARK, Verdict.ACCEPT),
        ("eth0", "198.51.100.7", MARK + 1, Verdict.DROP),
        ("lo", "198.51.100.7", 0, Verdict.ACCEPT),
        ("anon1", "2001:db8::7", 0, Verdict.ACCEPT),
        ("eth0", "2001:db8::7", 0, Verdict.DROP),
        ("eth0", "2001:db8:1::7", 0, Verdict.ACCEPT),
        ("eth0", "203.0.113.1", 0, Verdict.ACCEPT),
    ],
)
def test_the_guard_holds_each_destination_to_its_device(out_device, destination, mark, expected):
    assert verdict(GUARD, out_device=out_device, destination=destination, mark=mark) is expected


@pytest.mark.parametrize(
    ("out_device", "destination", "expected"),
    [
        ("anon0", "198.51.7.7", Verdict.ACCEPT),
        ("eth0", "198.51.7.7", Verdict.DROP),
        ("eth0", "203.0.113.1", Verdict.DROP),
        ("anon0", "203.0.113.1", Verdict.DROP),
        ("lo", "203.0.113.1", Verdict.ACCEPT),
    ],
)
def test_the_guard_lets_an_inner_address_speak_into_its_circuit_alone(
    out_device, destination, expected
):
    inner = ipaddress.ip_address("100.64.0.2")
    found = verdict(GUARD, out_device=out_device, destination=destination, source=inner)
    assert found is expected


def test_a_carrying_device_that_is_gone_lets_nothing_through():
    orphan = Route(WIDE, RouteKind.UNICAST, 1, 1, None)
    table = guard_filter("guard-1", MARK, [unreachable(WIDE), orphan])
    assert verdict(table, out_device="anon0", destination="198.51.7.7") is Verdict.DROP


def test_inner_addresses_answer_to_their_device_alone():
    rules = [rule for rule in GUARD.rules if rule.hook is Hook.PREROUTING]
    assert rules[0] == Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device="lo")
    assert {(rule.not_in_device, str(rule.destination)) for rule in rules[1:]} == {
        ("anon0", "100.64.0.2/32"),
        ("anon1", "fd99::2/128"),
    }


def test_nftables_replaces_the_guard_in_one_transaction():
    assert render_nftables(GUARD) == (
        "table inet anonymous_overlay_guard_1\n"
        "delete table inet anonymous_overlay_guard_1\n"
        "table inet anonymous_overlay_guard_1 {\n"
        "  chain prerouting {\n"
        "    type filter hook prerouting priority mangle; policy accept;\n"
        '    iifname "lo" accept\n'
        '    meta nfproto ipv4 iifname != "anon0" ip daddr 100.64.0.2/32 drop\n'
        '    meta nfproto ipv6 iifname != "anon1" ip6 daddr fd99::2/128 drop\n'
        "  }\n"
        "  chain input {\n"
        "    type filter hook input priority filter; policy accept;\n"
        '    iifname "anon0" ct state established,related accept\n'
        '    iifname "anon0" drop\n'
        '    iifname "anon1" ct state established,related accept\n'
        '    iifname "anon1" drop\n'
        "  }\n"
        "  chain postrouting {\n"
        "    type filter hook postrouting priority filter; policy accept;\n"
        '    oifname "lo" accept\n'
        "    meta mark 0x6d69 accept\n"
        '    meta nfproto ipv6 oifname "anon1" ip6 daddr 2001:db8::/64 accept\n'
        "    meta nfproto ipv6 ip6 daddr 2001:db8::/64 drop\n"
        "    meta nfproto ipv4 ip daddr 198.51.100.0/24 drop\n"
        '    meta nfproto ipv4 oifname "anon0" ip daddr 198.51.0.0/16 accept\n'
        "    meta nfproto ipv4 ip daddr 198.51.0.0/16 drop\n"
        "    meta nfproto ipv4 ip saddr 100.64.0.2/32 drop\n"
        "    meta nfproto ipv6 ip6 saddr fd99::2/128 drop\n"
        "  }\n"
        "}\n"
    )


def test_iptables_gets_the_rules_of_its_own_ip_version_alone():
    four, six = render_iptables(GUARD, 4), render_iptables(GUARD, 6)
    assert "2001:db8" not in four
    assert "198.51" not in six
    for script in (four, six):
        assert script.startswith("*mangle\n:AO-guard-1-PRE - [0:0]\n")
        assert "-A AO-guard-1-POST -m mark --mark 0x6d69 -j ACCEPT\n" in script
        assert script.count("COMMIT\n") == 1  # nothing is translated, so nothing is said of nat
    assert "-A AO-guard-1-POST -o anon0 -d 198.51.0.0/16 -j ACCEPT\n" in four
    assert "-A AO-guard-1-PRE ! -i anon1 -d fd99::2/128 -j DROP\n" in six


def test_chain_names_fit_iptables_for_every_table_number():
    masquerade = Rule(hook=Hook.POSTROUTING, verdict=Verdict.MASQUERADE, source=POOL4)
    table = FilterTable(f"guard-{0xFFFFFFFF}", MARK, (masquerade,))
    names = [line[1:].split()[0] for line in render_iptables(table, 4).splitlines() if ":" in line]
    assert len(names) >= 6
    assert max(map(len, names)) <= 28


EXIT = FilterTable(
    "exit",
    MARK,
    exit_rules(ExitPlan("exit0", (POOL4, POOL6), 1280, ("eth0", "wan1"))),
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
    forwarded = [rule for rule in EXIT.rules if rule.hook is Hook.FORWARD]
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


def test_an_exit_of_one_ip_version_drops_the_other_at_its_door():
    rules = exit_rules(ExitPlan("exit0", (POOL4,), 1280, ("eth0",)))
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
