"""Another host cannot distinguish a host with a path from others by any kind of packet."""

import contextlib
import itertools
import json
import socket
from collections import Counter

import pytest
from scapy.layers import inet, inet6, l2
from stranger import (
    ABSENT,
    FAR,
    GATEWAYS,
    HARDWARE,
    INNER,
    NEAR,
    OTHERS,
    OWN,
    STAND_INS,
    Stranger,
    arp,
    asked,
    connect,
    framed,
    igmp_query,
    layer,
    solicitation,
)
from test_system_kill_switch_answers import OWNER, SERVICES

from lab.namespaces import Namespace

SOURCES = (FAR, NEAR, OTHERS, STAND_INS)


@pytest.fixture
def outside(laboratory):
    with Namespace("outside") as made:
        yield made


def questions(*, forwards, marks_arp):
    """Return packets from many sources to the host, and to addresses that it may hold."""
    ports = itertools.count(20_000, 50)
    packets = []
    for index, own in enumerate(OWN):
        packets += [each for s in SOURCES for each in asked(s[index], own, next(ports))]
        if index == 0:
            # Without UDP: what is tracked before the address is lent is not translated.
            packets += [p for p in asked(INNER[0], own, next(ports)) if p.payload.name != "UDP"]
        elif forwards:
            packets += asked(FAR[1], ABSENT[1], next(ports))
            continue  # the kernel's own errors about a held IPv6 address come from that address
        packets += asked(FAR[index], ABSENT[index], next(ports))  # no stand-in on the wire
        if not forwards:  # what is to a protected host, over this one
            packets += asked(OTHERS[index], FAR[index], next(ports))
        for source, ttl in ((FAR, 1), (NEAR, 1), (OTHERS, 1), (GATEWAYS, 64), (STAND_INS, 64)):
            packets += asked(source[index], INNER[index], next(ports), ttl=ttl)
    senders = [GATEWAYS[0], NEAR[0], OTHERS[0], STAND_INS[0], "0.0.0.0"]
    senders += [INNER[0]] if marks_arp else []
    packets += [arp(s, t) for s in senders for t in (OWN[0], INNER[0], ABSENT[0])]
    senders = (GATEWAYS[1], NEAR[1], OTHERS[1], INNER[1], STAND_INS[1], "::")
    packets += [solicitation(s, t) for s in senders for t in (OWN[1], INNER[1], ABSENT[1])]
    return [*packets, *(igmp_query(s[0]) for s in SOURCES)]


@pytest.mark.parametrize(
    ("filter_name", "forwards", "reverse_path"),
    [("nftables Nftables", 1, 0), ("nftables Nftables", 0, 1), ("iptables Iptables", 1, 0)],
)
def test_another_host_finds_no_difference(
    namespace, outside, script, filter_name, forwards, reverse_path
):
    connect(
        namespace,
        outside,
        ipv4__ip_forward=forwards,
        ipv6__conf__all__forwarding=forwards,
        ipv4__conf__all__rp_filter=reverse_path,
    )
    assert script(namespace, SERVICES.format(ipv4=OWN[0], ipv6=OWN[1])).said == "ready"
    for program in ("iptables-legacy", "ip6tables-legacy"):
        # Connections that are tracked before there is a kill switch would not be translated.
        namespace.run([program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"])
    module, name = filter_name.split()
    marks_arp = name == "Nftables"
    prefixes = (f"{FAR[0]}/32", "2001:db8:113::/64")
    owner = script(
        namespace,
        OWNER.format(module=module, name=name, prefixes=prefixes).replace(
            "pairs = [",
            f"pairs = [(ipaddress.ip_network(p), ipaddress.ip_address(a).packed) "
            f"for p, a in {tuple(zip(NEAR, INNER, strict=True))}] + [",
        ),
    )
    assert owner.said == "ready"
    with Stranger(outside) as stranger:
        frames = framed(questions(forwards=forwards, marks_arp=marks_arp))
        free = stranger.ask(frames)
        assert free.total() > 100
        for state in ("protect", "carry", "kill"):
            if state == "kill":
                owner.kill()
            else:
                assert owner.tell(state) == "done"
            found = stranger.ask(frames)
            assert (state, free - found, found - free) == (state, Counter(), Counter())


BRIDGE = """
link add br0 address 02:00:00:00:00:02 type bridge
link set eth0 master br0
link set br0 up
"""
MACVLAN = """
link set eth0 address 02:00:00:00:00:04
link add link eth0 name br0 address 02:00:00:00:00:02 type macvlan mode bridge
link set br0 up
"""


@pytest.mark.parametrize(
    ("above", "filter_name"),
    [
        (BRIDGE, "nftables Nftables"),
        (BRIDGE, "iptables Iptables"),
        (MACVLAN, "nftables Nftables"),
    ],
)
def test_a_protected_neighbour_is_answered_through_a_bridge_and_asked_by_guests(
    namespace, outside, script, above, filter_name
):
    connect(namespace, outside)
    addresses = [f"address add {OWN[0]}/16 dev br0", f"address add {OWN[1]}/64 dev br0 nodad"]
    namespace.configure(["address flush dev eth0", *above.split("\n")[1:-1], *addresses])
    module, name = filter_name.split()
    if name == "Iptables":  # loads the match, as Docker or libvirt do
        rule = ["-m", "physdev", "--physdev-is-bridged", "-j", "ACCEPT"]
        namespace.run(["iptables-legacy", "-A", "FORWARD", *rule])
    pairs = tuple((f"{near}/{128 if ':' in near else 32}") for near in NEAR)
    owner = script(namespace, OWNER.format(module=module, name=name, prefixes=pairs))
    frames = framed(
        [layer(a, b) / inet.ICMP() for a, b in ((NEAR[0], OWN[0]), (OTHERS[0], NEAR[0]))]
        + [layer(NEAR[1], OWN[1]) / inet6.ICMPv6EchoRequest()]
    )

    def asks():
        """Return for which IPv4 addresses the host asks on the cable, and in whose name."""
        namespace.configure(["neighbour flush dev br0"])
        return {each for each in stranger.ask(frames) if each.startswith("arp 1")}

    with Stranger(outside) as stranger, Namespace("guest") as guest:
        free = asks()
        assert free == {f"arp 1 {OWN[0]} {NEAR[0]} ff:ff:ff:ff:ff:ff"}
        assert owner.tell("protect") == "done"
        assert asks() == free
        assert owner.tell("carry") == "done"
        assert asks() == free
        for device in (None, b"eth0", b"br0"):
            with contextlib.suppress(OSError):
                namespace.call(lambda d=device: speaks(NEAR[0], d))
        sent = stranger.ask([])
        assert not any("UDP" in each for each in sent)
        if above is BRIDGE:
            namespace.configure(
                [
                    f"link add guest0 type veth peer name eth0 netns {guest.pid}",
                    "link set guest0 master br0 up",
                ]
            )
            guest.configure(["address add 10.1.0.77/16 dev eth0", "link set eth0 up"])
            assert owner.tell("carry") == "done"  # the new device gets its programs
            guest.call(lambda: speaks(NEAR[0], None))
            assert f"arp 1 10.1.0.77 {NEAR[0]} ff:ff:ff:ff:ff:ff" in stranger.ask([])
            guest.configure([f"neighbour replace {NEAR[0]} lladdr {HARDWARE} dev eth0"])
            guest.call(lambda: speaks(NEAR[0], None))
            assert any(f"10.1.0.77 -> {NEAR[0]}" in each for each in stranger.ask([]))
            # In the other direction, the guest sees the neighbour and not a stand-in.
            guest_socket = guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with guest_socket:
                guest_socket.bind(("10.1.0.77", 6000))
                guest_socket.settimeout(5)
                hardware = json.loads(guest.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0][
                    "address"
                ]
                datagram = layer(NEAR[0], "10.1.0.77") / inet.UDP(sport=7, dport=6000) / b"hello"
                stranger.ask([bytes(l2.Ether(src=HARDWARE, dst=hardware) / datagram)])
                assert guest_socket.recvfrom(100) == (b"hello", (NEAR[0], 7))


def speaks(address, device):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
        if device is not None:
            new.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        new.sendto(b"own", (address, 5000))


@pytest.mark.parametrize("filter_name", ["nftables Nftables", "iptables Iptables"])
def test_a_host_without_a_default_route_answers_a_protected_neighbour(
    namespace, outside, script, filter_name
):
    connect(namespace, outside)
    namespace.configure([f"route delete default via {each}" for each in GATEWAYS])
    assert script(namespace, SERVICES.format(ipv4=OWN[0], ipv6=OWN[1])).said == "ready"
    for program in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run([program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"])
    module, name = filter_name.split()
    prefixes = (f"{NEAR[0]}/32", f"{NEAR[1]}/128")
    owner = script(namespace, OWNER.format(module=module, name=name, prefixes=prefixes))
    sources = zip((NEAR, STAND_INS, OTHERS), (30_000, 31_000, 32_000), strict=True)
    frames = framed(
        [
            packet
            for source, port in sources
            for index in (0, 1)
            for packet in asked(source[index], OWN[index], port + 100 * index)
        ]
    )
    with Stranger(outside) as stranger:
        free = stranger.ask(frames)
        assert any("7000" in each for each in free)
        for state in ("protect", "carry"):
            assert owner.tell(state) == "done"
            found = stranger.ask(frames)
            assert (state, free - found, found - free) == (state, Counter(), Counter())
        # A default route that comes later replaces the one to the stand-in.
        namespace.configure([f"route add default via {each}" for each in GATEWAYS])
        assert owner.tell("carry") == "done"
        for family in ("-4", "-6"):
            shown = namespace.run(["ip", family, "route", "show", "table", "main"]).stdout
            assert "192.0.0.8" not in shown
            assert "100:0:0:1::8" not in shown
