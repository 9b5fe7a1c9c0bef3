"""How many connections circuits may have, and how the rules count them."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.system.exit_limits import ExitLimits, limit_rules, within_kernel_table
from overlay.system.exit_networks import ExitNetworks, exit_rules
from overlay.system.iptables import render_iptables
from overlay.system.nftables import render_nftables
from overlay.system.packet_filter import ConnectionLimit, FilterTable, Hook, Verdict

POOL4, POOL6 = ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")
LIMITS = ExitLimits(per_circuit=4096, per_second=200, total=131_072)
ALL = ExitPolicy(tuple(ExitRule(accept=True, network=n) for n in (POOL4.supernet(new_prefix=0),)))
OWN = (ipaddress.ip_network("203.0.114.1/32"), ipaddress.ip_network("2a00::1/128"))


@pytest.mark.parametrize("policy", [None, ALL], ids=["userspace", "kernel"])
def test_every_pool_is_limited_and_refused_before_anything_is_accepted(policy):
    plan = ExitNetworks(
        "exit0", (POOL4, POOL6), 1280, ("eth0",), policy, limits=LIMITS, refused=OWN
    )
    rules = [rule for rule in exit_rules(plan) if rule.hook is Hook.FORWARD]
    for pool, own in zip((POOL4, POOL6), OWN, strict=True):
        accepted = [
            n
            for n, rule in enumerate(rules)
            if rule.verdict is Verdict.ACCEPT
            and not rule.reply
            and (rule.source == pool or (rule.source is None and rule.in_device == "exit0"))
        ]
        limiting = [n for n, r in enumerate(rules) if r.over is not None and r.source == pool]
        refusing = [n for n, r in enumerate(rules) if r.destination == own and r.source == pool]
        assert len(limiting) == 3
        assert len(refusing) == 1
        assert max(limiting + refusing) < min(accepted, default=len(rules))


@pytest.mark.parametrize(
    ("tracked", "limits", "total"),
    [
        ("262144", LIMITS, 131_072),
        ("65536", LIMITS, 49_152),
        ("65536", ExitLimits(0, 0, 0), 49_152),
        ("0", LIMITS, 131_072),
        ("nonsense", LIMITS, 131_072),
    ],
)
def test_the_host_keeps_a_quarter_of_the_kernels_table(tracked, limits, total):
    assert within_kernel_table(limits, tracked).total == total


@given(
    st.sampled_from([POOL4, POOL6, ipaddress.ip_network("10.0.0.0/29")]),
    st.integers(0, 28_000),
    st.integers(1, 1 << 24),
    st.sampled_from([1, 2]),
)
def test_parts_of_a_pool_never_exceed_the_total(pool, per_circuit, total, versions):
    *circuit, part = limit_rules(pool, ExitLimits(per_circuit, 0, total), versions)
    allowed = circuit[0].over.connections if circuit else 0
    assert isinstance(part.over, ConnectionLimit)
    parts = 1 << (part.over.prefix_length - pool.prefixlen)
    assert pool.prefixlen <= part.over.prefix_length <= pool.max_prefixlen
    assert parts * part.over.connections <= max(total // versions, 1)
    # A part has room for two circuits at their limit, unless the whole has not.
    assert parts == 1 or part.over.connections >= 2 * allowed
    assert allowed <= min(per_circuit, max(total // versions // 8, 64))
    assert bool(allowed) == bool(per_circuit)


@pytest.mark.parametrize(
    ("tracked", "allowed"), [("262144", 4096), ("16384", 768), ("4096", 192), ("1024", 64)]
)
def test_no_circuit_takes_the_whole_of_a_small_kernels_table(tracked, allowed):
    circuit, _ = limit_rules(POOL4, replace(within_kernel_table(LIMITS, tracked), per_second=0), 2)
    assert circuit.over == ConnectionLimit(32, allowed)


def test_zero_means_no_limit():
    assert not list(limit_rules(POOL4, ExitLimits(0, 0, 0), 1))


def table():
    plan = ExitNetworks("exit0", (POOL4, POOL6), 1280, ("eth0",), limits=LIMITS)
    return FilterTable("exit", 1, exit_rules(plan))


def test_nftables_counts_first_packets_in_a_set_for_each_rule():
    script = render_nftables(table())
    assert script.count("ct state new ct status ! confirmed update @counted_") == 6
    assert script.count("flags dynamic;") == 6
    assert "{ ip saddr ct count over 4096 } drop" in script
    assert "{ ip6 saddr limit rate over 200/second burst 2000 packets } drop" in script
    assert "{ ip saddr & 255.248.0.0 ct count over 8192 } drop" in script
    assert "{ ip6 saddr & ffff:ffff:ffff:ffff:e000:: ct count over 8192 } drop" in script


@pytest.mark.parametrize(("version", "length"), [(4, 32), (6, 128)])
def test_iptables_counts_first_packets(version, length):
    lines = render_iptables(table(), version).splitlines()
    first = "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED"
    counting = [line for line in lines if first in line]
    assert len(counting) == 3
    assert f"--connlimit-above 4096 --connlimit-mask {length} --connlimit-saddr" in counting[1]
    assert (
        f"--hashlimit-above 200/sec --hashlimit-burst 2000 --hashlimit-mode srcip "
        f"--hashlimit-srcmask {length}" in counting[0]
    )
    assert all(line.endswith("-j DROP") for line in counting)


def test_a_kernel_exit_drops_circuits_of_a_pool_that_the_host_has_begun_to_use():
    plan = ExitNetworks("exit0", (POOL6,), 1280, ("eth0",), ALL, left=(POOL4,))
    first = next(rule for rule in exit_rules(plan) if rule.source == POOL4)
    assert (first.hook, first.verdict) == (Hook.PREROUTING, Verdict.DROP)
    assert (first.source, first.ipsec_in) == (POOL4, True)
