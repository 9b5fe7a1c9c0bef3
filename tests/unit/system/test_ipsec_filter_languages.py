"""The filters of the kernel backend as nftables and iptables write them."""

from dataclasses import replace

from ipsec_filter_packets import (
    CUT_KILL_SWITCH,
    CUTTING_WALL,
    EXIT,
    INNER,
    KILL_SWITCH,
    MARK,
    WALL,
    Packet,
    verdict,
)

from overlay.system.iptables import render_iptables
from overlay.system.nftables import render_nftables
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict, silently


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
