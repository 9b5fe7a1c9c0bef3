# ruff: noqa: F811 - fixtures of another module
"""Where circuits leave a host with a VPN, what they reach, and what hosts beside it may do."""

import ipaddress
import socket

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from test_system_exit_check import BOTH, exit_host, passed, shell  # noqa: F401 - fixtures
from test_system_exit_filter import (  # noqa: F401 - fixtures
    INNER,
    POOLS,
    circuit,
    filter_type,
    hosts,
    installed,
)

from lab.capture import Capture
from overlay.errors import BackendError
from overlay.ipsec.xfrm.device import CircuitDevice
from overlay.system.exit_filter import ExitFilter
from overlay.system.nftables import Nftables
from overlay.system.rtnetlink import add_address

VPNS = {
    "divided default route": [
        "ip route add 0.0.0.0/1 dev vpn0",
        "ip route add 128.0.0.0/1 dev vpn0",
        "ip -6 route add 2000::/3 dev vpn0",
    ],
    "a table for packets without the VPN's mark": [
        "ip route add default dev vpn0 table 51820",
        "ip rule add not fwmark 51820 table 51820",
        "ip rule add table main suppress_prefixlength 0",
        "ip -6 route add default dev vpn0 table 51820",
        "ip -6 rule add not fwmark 51820 table 51820",
        "ip -6 rule add table main suppress_prefixlength 0",
    ],
    "a table for circuits alone": [
        "ip route add default dev vpn0 table 52",
        f"ip rule add from {POOLS[0]} lookup 52",
        "ip -6 route add default dev vpn0 table 52",
        f"ip -6 rule add from {POOLS[1]} lookup 52",
    ],
}
VPN_ADDRESSES = ("10.8.0.2", "fd08::2")
ONE_FILTER = pytest.mark.parametrize("filter_type", [Nftables], indirect=True)
"""For what does not depend on the packet filter."""

BEHIND = ("192.0.2.77", "2001:db8:88::77")
"""Hosts of the same site behind another router than that towards the outside."""

NEIGHBOURS = ("198.51.100.9", "2001:db8:77::9")


def device(name):
    """Return the commands that make a device to which packets can be sent without neighbours."""
    return (
        f"ip link add {name} type veth peer name {name}p",
        f"ip link set {name}p up",
        f"ip link set {name} arp off up",
    )


def start_vpn(host, commands):
    shell(
        host,
        *device("vpn0"),
        f"ip address add {VPN_ADDRESSES[0]}/24 dev vpn0",
        f"ip address add {VPN_ADDRESSES[1]}/64 dev vpn0 nodad",
        *commands,
    )


def undo(commands):
    """Return the commands that take rules away; routes go with the device."""
    return [each.replace(" add ", " del ") for each in commands if " rule " in each]


def datagrams(targets, port):
    """Return what a circuit sends, one datagram for each IP version."""
    return [
        bytes((IPv6 if ":" in target else IP)(src=inner, dst=target) / UDP(sport=7, dport=port))
        for inner, target in zip(INNER, targets, strict=True)
    ]


@pytest.fixture
def sent(exit_host, circuit, tmp_path):
    """Return the sources of what leaves over a device if a circuit sends to two addresses."""

    def send(device, targets):
        with Capture(exit_host.namespace, device, tmp_path / "sent.pcap") as capture:
            circuit.exit_device.write_batch(datagrams(targets, 7001))
        return {p.source for p in capture.packets() if p.destination_port == 7001}

    return send


@pytest.mark.parametrize("commands", VPNS.values(), ids=list(VPNS))
def test_circuits_leave_by_a_vpn_and_not_without_it(
    exit_host, hosts, passed, installed, sent, commands
):
    bob = tuple(str(each.ip) for each in (hosts[1].ipv4, hosts[1].ipv6))

    def refresh():
        return exit_host.namespace.call(installed.refresh)

    start_vpn(exit_host, commands)
    assert passed() == frozenset()  # where no circuit may leave yet
    assert refresh()
    assert not refresh()
    assert passed() == BOTH
    assert sent("vpn0", bob) == set(VPN_ADDRESSES)
    shell(exit_host, "ip link del vpn0", *undo(commands))
    assert sent("eth0", bob) == set()
    assert refresh()
    assert [each.kind for each in installed.way_problems()] == ["vpn_gone"] * 2
    assert passed() == frozenset()
    assert sent("eth0", bob) == set()
    start_vpn(exit_host, commands)
    assert refresh()
    assert installed.way_problems() == []
    assert sent("vpn0", bob) == set(VPN_ADDRESSES)


@ONE_FILTER
def test_a_route_that_refuses_is_told_from_a_route_that_lacks(exit_host, passed, installed):
    shell(
        exit_host,
        "ip rule add not fwmark 51820 table 51820",
        "ip route add unreachable default table 51820",
        "ip -6 route del default",
    )
    assert exit_host.namespace.call(installed.refresh)
    problems = {each.version: each for each in installed.way_problems()}
    assert {v: each.kind for v, each in problems.items()} == {
        4: "route_refuses",
        6: "no_default_route",
    }
    assert passed() == frozenset()
    command = problems[4].remedy.partition(": ")[2].partition(";")[0]
    shown = exit_host.namespace.run(command.split(), check=False)
    assert "No route to host" in shown.stderr


@ONE_FILTER
def test_ipv6_that_is_switched_off_on_the_exits_device_is_named(exit_host, passed, installed):
    shell(exit_host, "sysctl -qw net.ipv6.conf.exit0.disable_ipv6=1")
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == {4}
    with pytest.raises(BackendError, match=r"IPv6 is switched off .*: sysctl -w net\.ipv6"):
        exit_host.namespace.call(lambda: add_address("exit0", bytes(15) + b"\7"))
    problem = exit_host.namespace.call(lambda: installed.not_forwarded(POOLS[1]))
    assert problem.kind == "no_ipv6"
    shell(exit_host, problem.remedy.partition(": ")[2])
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == BOTH


@ONE_FILTER
def test_an_uplink_that_is_renamed_or_replaced_is_followed(exit_host, passed, installed):
    shell(
        exit_host,
        *device("wan1"),
        "ip route del default",
        f"ip route add default via {exit_host.ipv4.network.network_address + 1} metric 50",
        "ip route add default dev wan1 metric 1",
        "ip -6 route add default dev wan1 metric 1",
    )
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == BOTH
    shell(exit_host, "ip link set wan1 name uplink")
    assert passed() == frozenset()
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == BOTH
    shell(exit_host, "ip link del uplink")
    assert exit_host.namespace.call(installed.refresh)
    assert passed() == BOTH


def test_hosts_of_the_exits_own_links_are_reached_by_no_circuit(
    exit_host, circuit, installed, sent, filter_type
):
    shell(
        exit_host,
        "ip address add 198.51.100.2/24 dev eth0",
        "ip address add 2001:db8:77::2/64 dev eth0 nodad",
        *(f"ip neigh add {each} lladdr 02:00:00:00:00:09 dev eth0" for each in NEIGHBOURS),
        f"ip route add {BEHIND[0]} via {NEIGHBOURS[0]}",
        f"ip -6 route add {BEHIND[1]} via {NEIGHBOURS[1]}",
    )
    assert len(sent("eth0", BEHIND)) == 2
    assert len(sent("eth0", NEIGHBOURS)) == 2  # the exit does not know yet
    assert exit_host.namespace.call(installed.refresh)
    assert sent("eth0", NEIGHBOURS) == set()
    assert sent("eth0", BEHIND) == set()
    shell(exit_host, "ip address del 2001:db8:77::2/64 dev eth0")
    assert exit_host.namespace.call(installed.refresh)
    assert ipaddress.ip_network("2001:db8:77::/64") not in installed.own_links
    exit_host.namespace.call(installed.remove)

    def opened():
        device = circuit.exit_device.name
        networks = [ipaddress.ip_network("198.51.100.0/25")]
        return ExitFilter(
            device, POOLS, packet_filter=filter_type(), own_links_opened=networks
        ).install()

    exit_host.namespace.call(opened)
    assert len(sent("eth0", NEIGHBOURS)) >= 1


def test_other_hosts_cannot_send_through_an_exit_that_forwarded_nothing(
    exit_host, hosts, installed, tmp_path
):
    """Answers come in over the uplink, so forwarding is on there."""
    core = exit_host.core
    shell(
        exit_host,
        *device("lan0"),
        "ip address add 172.30.0.1/24 dev lan0",
        "ip address add fd30::1/64 dev lan0 nodad",
    )
    assert exit_host.namespace.call(installed.refresh)
    core.configure(
        [
            f"route add 172.30.0.0/24 via {exit_host.ipv4.ip}",
            f"route add fd30::/64 via {exit_host.ipv6.ip}",
        ]
    )

    def send():
        for target in ("172.30.0.9", "fd30::9"):
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as new:
                new.sendto(b"through", (target, 7002))

    def arrived():
        with Capture(exit_host.namespace, "lan0", tmp_path / "lan.pcap") as capture:
            core.call(send)
            hosts[1].namespace.run(["ping", "-c", "1", "-W", "5", str(exit_host.ipv4.ip)])
        return {p.destination for p in capture.packets() if p.destination_port == 7002}

    assert arrived() == set()
    shell(exit_host, "sysctl -qw net.ipv4.ip_forward=1")  # as a container engine does
    assert exit_host.namespace.call(installed.refresh)
    assert arrived() == {"172.30.0.9"}


@ONE_FILTER
def test_router_advertisements_are_heard_on_every_device_and_no_more_afterwards(
    exit_host, installed
):
    def values():
        names = ("default", "eth0", "late0")
        return [
            exit_host.namespace.run(["sysctl", "-n", f"net.ipv6.conf.{n}.accept_ra"]).stdout.strip()
            for n in names
        ]

    shell(
        exit_host,
        "sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.default.accept_ra=1",
    )
    assert exit_host.namespace.call(installed.refresh)
    assert not exit_host.namespace.call(installed.refresh)
    shell(exit_host, *device("late0"))
    assert values() == ["2"] * 3
    shell(exit_host, "sysctl -qw net.ipv6.conf.late0.accept_ra=1")
    assert exit_host.namespace.call(installed.refresh)
    assert values() == ["2"] * 3
    exit_host.namespace.call(installed.remove)
    assert values() == ["1"] * 3


def test_the_backend_of_the_kernel_names_the_setting_if_ipv6_is_off(namespace):
    namespace.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
    with pytest.raises(BackendError, match=r"IPv6 is switched off .*: sysctl -w net\.ipv6"):
        namespace.call(lambda: CircuitDevice([]))
