"""Which chains of other programs are named, and the commands that let circuits pass."""

import ipaddress
import json

import pytest

from overlay.system.exit_problems import forwarding_problem
from overlay.system.foreign_filters import Direction, ForeignChain, legacy_chains, nft_chains

POOL4, POOL6 = ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")


def chain(family, table, name, hook="forward", policy="accept", rules=()):
    described = {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}
    return {"chain": described}, [{"rule": {"expr": [each]}} for each in rules]


def run_nft(*chains):
    listed = {tuple(c["chain"][k] for k in ("family", "table", "name")): r for c, r in chains}

    def run(argv):
        found = [c for c, _ in chains] if argv[-1] == "chains" else listed[tuple(argv[-3:])]
        return json.dumps({"nftables": found})

    return run


DROP, JUMP, ACCEPT = {"drop": None}, {"jump": {"target": "other"}}, {"accept": None}


@pytest.mark.parametrize(
    ("chains", "found"),
    [
        ([chain("inet", "mine", "fwd", policy="drop")], [("inet", "fwd", "", True)]),
        ([chain("ip", "filter", "FORWARD", policy="drop")], [("iptables", "FORWARD", "", True)]),
        ([chain("inet", "firewalld", "filter_FORWARD", rules=[{"reject": {}}])],
         [("inet", "filter_FORWARD", "firewalld", True)]),
        ([chain("ip", "filter", "FORWARD", rules=[{"jump": {"target": "ufw-before-forward"}}])],
         [("iptables", "FORWARD", "ufw", False)]),
        ([chain("inet", "mine", "fwd", rules=[JUMP])], [("inet", "fwd", "", False)]),
        ([chain("inet", "mine", "fwd", rules=[ACCEPT])], []),
        ([chain("inet", "mine", "in", hook="input", policy="drop")], []),
        ([chain("ip6", "mine", "fwd", policy="drop")], []),
        ([chain("inet", "anonymous_overlay_exit", "forward", policy="drop")], []),
    ],
)  # fmt: skip
def test_forward_chains_that_may_refuse_are_named(chains, found):
    named = nft_chains(4, run_nft(*chains))
    assert [(c.family, c.chain, c.by, c.certain) for c in named] == found


def legacy(version, text, table="filter"):
    """Return what is named if a table of legacy iptables holds this."""
    return legacy_chains(version, lambda argv: text if argv[3] == table else "")


def test_legacy_iptables_is_read_too():
    assert legacy(4, "-P FORWARD DROP\n")[0].certain
    assert legacy(6, "-P FORWARD ACCEPT\n-A FORWARD -j X\n")[0].certain is False
    assert legacy(4, "-P FORWARD DROP\n-A FORWARD -j ufw-x\n")[0].by == "ufw"
    assert legacy(4, "-P FORWARD ACCEPT\n-P INPUT DROP\n") == []
    assert legacy(4, "") == []
    own = "-P PREROUTING ACCEPT\n-A PREROUTING -j AO-exit-PRE\n-A AO-exit-PRE -j DROP\n"
    assert legacy(4, own, "mangle") == []


def test_a_chain_before_routing_is_named_with_its_table():
    (named,) = legacy(4, "-P PREROUTING ACCEPT\n-A PREROUTING -s 100.64.0.0/10 -j DROP\n", "raw")
    assert named.name == "iptables-legacy, table raw, chain PREROUTING"
    assert named.commands(POOL4, "exit0")[0] == (
        "iptables-legacy -t raw -I PREROUTING -s 100.64.0.0/10 -j ACCEPT"
    )
    (named,) = nft_chains(4, run_nft(chain("inet", "y", "pre", "prerouting", rules=[DROP])))
    assert (named.family, named.chain) == ("inet", "pre")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": [1, {"chain": {}}]}', "{"])
def test_what_no_tool_would_write_names_nothing(text):
    assert nft_chains(4, lambda _: text) == []


@pytest.mark.parametrize(
    ("by", "pool", "command"),
    [
        ("firewalld", POOL4, "firewall-cmd --permanent --zone=trusted --add-source=100.64.0.0/10"),
        ("ufw", POOL4, "ufw route allow in on exit0"),
        ("", POOL4, "nft insert rule inet mine fwd ip saddr 100.64.0.0/10 accept"),
        ("", POOL6, "nft insert rule inet mine fwd ip6 daddr fd99::/64 accept"),
    ],
)
def test_the_remedy_speaks_to_the_program_that_manages_the_chain(by, pool, command):
    named = ForeignChain("inet", "mine", "fwd", by)
    problem = forwarding_problem(pool, "exit0", read=lambda _: None, chains=lambda _: [named])
    assert command in problem.remedy
    assert f"({by or 'nft, chain inet mine fwd'})" in problem.cause


def test_a_full_table_of_connections_is_told_from_a_filter():
    values = {"net/netfilter/nf_conntrack_count": "64", "net/netfilter/nf_conntrack_max": "64"}
    problem = forwarding_problem(POOL4, read=values.get, chains=lambda _: [])
    assert problem.kind == "tracking_full"
    assert "sysctl -w net.netfilter.nf_conntrack_max=128" in problem.remedy


def test_chains_of_the_other_directions_are_those_of_their_hooks():
    inwards = chain("inet", "mine", "in", hook="input", policy="drop")
    forwards = chain("inet", "mine", "fwd", policy="drop")
    outwards = chain("inet", "mine", "out", hook="output", policy="drop")
    run = run_nft(inwards, forwards, outwards)
    for direction, name in ((Direction.INPUT, "in"), (Direction.OUTPUT, "out")):
        assert [each.chain for each in nft_chains(4, run, direction)] == [name]
    text = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n"
    named = legacy_chains(4, lambda argv: text if argv[3] == "filter" else "", Direction.INPUT)
    assert [each.chain for each in named] == ["INPUT"]


@pytest.mark.parametrize(
    ("family", "by", "direction", "command"),
    [
        ("inet", "", Direction.INPUT, "nft insert rule inet t c udp dport 4500 accept"),
        ("inet", "", Direction.OUTPUT, "nft insert rule inet t c udp sport 4500 accept"),
        ("iptables", "", Direction.OUTPUT, "iptables -t t -I c -p udp --sport 4500 -j ACCEPT"),
        ("inet", "firewalld", Direction.INPUT, "firewall-cmd --permanent --add-port=4500/udp"),
        ("ip", "ufw", Direction.INPUT, "ufw allow 4500/udp"),
        ("ip", "ufw", Direction.OUTPUT, "ufw allow out proto udp from any port 4500"),
    ],
)
def test_commands_accept_a_port_in_the_direction(family, by, direction, command):
    assert ForeignChain(family, "t", "c", by).port_commands(4500, direction)[0] == command


def test_a_port_that_a_rule_accepts_is_known():
    rules = "-P INPUT DROP\n-A INPUT -p udp -m udp --dport 4500 -j ACCEPT\n"
    (named,) = legacy_chains(4, lambda argv: rules if argv[3] == "filter" else "", Direction.INPUT)
    assert (named.accepts(4500), named.accepts(450)) == (True, False)
    match = {"match": {"right": 4500}}
    listed = chain("inet", "mine", "in", hook="input", policy="drop")
    listed[1].append({"rule": {"expr": [match, {"accept": None}]}})
    (named,) = nft_chains(4, run_nft(listed), Direction.INPUT)
    assert named.accepts(4500)
