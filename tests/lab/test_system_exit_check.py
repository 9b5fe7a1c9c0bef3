# ruff: noqa: F811 - fixtures of another module
"""An exit notices that it cannot forward, says why, and puts back what is its own."""

import ipaddress
import socket

import pytest
from test_system_exit_filter import (  # noqa: F401 - fixtures
    MTU,
    POOLS,
    circuit,
    filter_type,
    hosts,
    installed,
)

from overlay.system.exit_filter import ExitFilter
from overlay.system.exit_problems import exit_problems
from overlay.system.tun import TunDevice

BOTH = frozenset((4, 6))
NFT_TABLE = "inet anonymous_overlay_exit"
NFT_DROP = """
table inet other {
  chain forward { type filter hook forward priority filter + 10; policy drop; }
}
"""
NFT_NOTRACK = """
table inet raw {
  chain prerouting { type filter hook prerouting priority raw; policy accept; notrack; }
}
"""


@pytest.fixture
def exit_host(hosts):
    return hosts[0]


@pytest.fixture
def passed(exit_host, circuit, installed):
    """Return the IP versions over which the exit's host forwards."""
    return lambda: exit_host.namespace.call(
        lambda: installed.passed(circuit.exit_device.write_batch)
    )


def shell(host, *commands):
    for command in commands:
        host.namespace.run(["sh", "-c", command])


def test_a_filter_that_refuses_to_forward_is_noticed_and_its_remedy_works(
    exit_host, passed, installed, exchange, hosts, tmp_path
):
    _, bob = hosts

    def mend():
        for pool in POOLS:
            problem = exit_host.namespace.call(lambda p=pool: installed.not_forwarded(p))
            shell(exit_host, problem.remedy.partition(": ")[2])

    with exit_host.capture(tmp_path / "exit.pcap") as capture:
        assert passed() == BOTH
        shell(exit_host, "iptables-legacy -P FORWARD DROP")
        assert passed() == {6}
        shell(exit_host, "ip6tables-legacy -P FORWARD DROP")
        assert passed() == frozenset()
        mend()
        assert passed() == BOTH
        for command in (
            f"nft '{NFT_DROP}'",
            "for each in iptables ip6tables; do $each-legacy -t raw -I PREROUTING -j NOTRACK; done",
            f"nft '{NFT_NOTRACK}'",
        ):
            shell(exit_host, command)
            assert passed() == frozenset(), command
            mend()
            assert passed() == BOTH, command
        exchange(exit_host, bob)
    # No probe leaves the host.
    assert {packet.destination_port for packet in capture.packets()}.isdisjoint({443})


def test_what_others_flush_or_switch_off_is_put_back(exit_host, passed, installed, filter_type):
    flushed = {
        "Nftables": [
            "nft flush ruleset",
            f"nft flush table {NFT_TABLE}",
            f"nft flush chain {NFT_TABLE} translation",
        ],
        "Iptables": [
            "iptables-legacy -t mangle -F",
            "ip6tables-legacy -t mangle -F",
            "iptables-legacy -t mangle -F AO-exit-FWD",
            "ip6tables-legacy -t nat -F AO-exit-NAT",
        ],
    }
    others = [
        f"ip route del {POOLS[0]}",
        f"ip -6 route del {POOLS[1]}",
        "sysctl -w net.ipv4.conf.eth0.forwarding=0",
        "sysctl -w net.ipv6.conf.all.forwarding=0",
    ]
    if filter_type.__name__ == "Iptables":
        others.append("iptables-legacy -t nat -F")
    refresh = lambda: exit_host.namespace.call(installed.refresh)  # noqa: E731 - short
    assert not refresh()
    for command in (*flushed[filter_type.__name__], *others):
        shell(exit_host, command)
        assert refresh(), command
        assert passed() == BOTH, command
        assert not refresh(), command
    exit_host.namespace.call(lambda: installed.refuse_destinations([POOLS[0]]))
    assert not refresh()


def test_an_exit_follows_the_default_route(exit_host, passed, installed):
    def kinds():
        return exit_host.namespace.call(lambda: [p.kind for p in exit_problems(POOLS)])

    routes = [
        exit_host.namespace.run(["ip", flag, "route", "show", "default"]).stdout.strip()
        for flag in ("-4", "-6")
    ]
    shell(exit_host, "ip route del default")
    assert kinds() == ["no_default_route"]
    shell(exit_host, "ip -6 route del default")
    assert kinds() == ["no_default_route"] * 2
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == frozenset()
    shell(exit_host, f"ip route add {routes[0]}", f"ip -6 route add {routes[1]}")
    assert exit_host.namespace.call(installed.refresh)
    assert (passed(), kinds()) == (BOTH, [])


def test_a_host_without_ipv6_is_an_exit_over_ipv4_until_it_has(exit_host, filter_type):
    default = exit_host.namespace.run(["ip", "-6", "route", "show", "default"]).stdout.strip()
    shell(
        exit_host,
        "sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
    )

    def inside():
        with (
            TunDevice.open("exit%d", MTU) as device,
            ExitFilter(device.name, POOLS, packet_filter=filter_type()) as made,
        ):
            yield made.passed(device.write_batch), [p.kind for p in exit_problems(POOLS)]
            made.refresh()
            yield made.passed(device.write_batch), [p.kind for p in exit_problems(POOLS)]

    steps = exit_host.namespace.call(inside)
    assert exit_host.namespace.call(lambda: next(steps)) == ({4}, ["no_ipv6"])
    shell(
        exit_host,
        "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0",
        f"ip -6 address add {exit_host.ipv6} dev eth0 nodad",
        f"ip -6 route add {default}",
    )
    assert exit_host.namespace.call(lambda: next(steps)) == (BOTH, [])
    exit_host.namespace.call(steps.close)


def test_a_pool_that_the_host_uses_is_named_with_the_other_use(exit_host):
    shell(exit_host, "ip address add 100.64.7.1/24 dev eth0", "ip -6 route add fd99::/80 dev eth0")
    found = exit_host.namespace.call(lambda: exit_problems(POOLS))
    assert [problem.kind for problem in found] == ["pool_in_use"] * 2
    assert all(problem.of_configuration for problem in found)
    assert "100.64.7" in found[0].cause
    assert "on eth0" in found[0].cause
    free = [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd98::/64")]
    assert exit_host.namespace.call(lambda: exit_problems(free)) == []


def test_a_pool_that_the_host_begins_to_use_is_left_to_it(
    exit_host, hosts, passed, installed, exchange, tmp_path
):
    _, bob = hosts
    own = ("100.64.7.1", "fd99::7:1")

    def send():
        for source, target in zip(own, (bob.ipv4.ip, bob.ipv6.ip), strict=True):
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as new:
                new.bind((source, 7000))
                new.sendto(b"own", (str(target), 7001))

    shell(
        exit_host,
        f"ip address add {own[0]}/24 dev eth0",
        f"ip -6 address add {own[1]}/112 dev eth0 nodad",
    )
    assert exit_host.namespace.call(installed.refresh)
    assert not exit_host.namespace.call(installed.refresh)
    assert passed() == frozenset()
    routes = exit_host.namespace.run(["sh", "-c", "ip route; ip -6 route"]).stdout
    assert "dev exit0" not in routes
    with bob.capture(tmp_path / "bob.pcap") as capture:
        exit_host.namespace.call(send)
        exchange(exit_host, bob)
    sources = {p.source for p in capture.packets() if p.destination_port == 7001}
    assert sources == set(own)
    shell(
        exit_host,
        f"ip address del {own[0]}/24 dev eth0",
        f"ip -6 address del {own[1]}/112 dev eth0",
    )
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == BOTH
