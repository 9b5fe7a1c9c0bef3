"""What comes out of a circuit, or asks about one, reaches nothing that this host did not ask."""

import contextlib
import errno
import ipaddress
import json
import socket
import time

import pytest
from questions import LOCAL, PUBLISHED, REDIRECTED, Wire, publish
from scapy.layers import inet, inet6, l2
from scapy.packet import Raw

from overlay.addresses import InnerAddress
from overlay.system.iptables import Iptables
from overlay.system.kill_switch import KillSwitch
from overlay.system.nftables import Nftables
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice

PREFIXES = (ipaddress.ip_network("203.0.113.10/32"), ipaddress.ip_network("2001:db8:113::/64"))
DESTINATIONS = ("203.0.113.10", "2001:db8:113::10")
INNER = ("100.64.1.2", "fd99::12")
SILENCE_S = 0.3
ASKED = 7777


@pytest.fixture(params=[Nftables, Iptables])
def filter_type(request):
    return request.param


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield stack


def from_exit(inner, source, source_port, port):
    layer = inet6.IPv6 if ":" in inner else inet.IP
    datagram = inet.UDP(sport=source_port, dport=port) / Raw(b"question")
    return bytes(layer(src=source, dst=inner) / datagram)


def listening(host, address, port):
    def listen():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        new = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind((address, port))
        new.setblocking(False)
        return new

    return host.namespace.call(listen)


def heard(services):
    """Return what each has heard: all that is sent here arrives at once or never."""
    time.sleep(SILENCE_S)
    found = []
    for each in services:
        try:
            found.append(each.recv(100))
        except BlockingIOError:
            found.append(None)
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_no_exit_reaches_a_service_whatever_translates_its_destination(
    underlay, filter_type, version, opened
):
    alice, other = underlay.add_host("alice"), underlay.add_host("other")
    for address in (other.ipv4.ip, other.ipv6.ip):  # so that neighbours know each other
        alice.namespace.run(["ping", "-c", "1", "-W", "10", str(address)])
    publish(alice, filter_type is Nftables, other)
    index = (version - 4) // 2
    prefix, destination, inner = PREFIXES[index], DESTINATIONS[index], INNER[index]
    everywhere = ("0.0.0.0", "::")[index]
    places = ((alice, ASKED), (alice, LOCAL), (other, LOCAL))
    services = [opened.enter_context(listening(h, everywhere, port)) for h, port in places]

    def inside():
        found = []
        with (
            KillSwitch(packet_filter=filter_type()) as kill_switch,
            TunDevice.open("anon%d", 1400) as device,
        ):

            def exit_asks(source_port=53):
                device.write_batch(
                    [
                        from_exit(inner, destination, source_port, port)
                        for port in (ASKED, REDIRECTED, PUBLISHED)
                    ]
                )
                return heard(services)

            packed = InnerAddress(ipaddress.ip_address(inner).packed)
            add_address(device.name, packed)
            found.append(exit_asks(54))  # all would be reached
            kill_switch.protect(prefix)
            kill_switch.expect(packed, device.name)
            found += [exit_asks(), exit_asks(54)]
            kill_switch.carry(prefix, device.name, packed, 1300)
            found.append(exit_asks())
            services[0].sendto(b"asked", (destination, 53))
            found.append(exit_asks())
            kill_switch.uncarry(prefix)
            kill_switch.release(prefix)
        return found

    found = alice.namespace.call(inside)
    nothing = [None, None, None]
    assert found == [[b"question"] * 3, *[nothing] * 3, [b"question", None, None]]


@contextlib.contextmanager
def carried(filter_type):
    """Both destinations are carried while inside; yields the device."""
    with (
        KillSwitch(packet_filter=filter_type()) as kill_switch,
        TunDevice.open("anon%d", 1400) as device,
    ):
        for prefix, inner in zip(PREFIXES, INNER, strict=True):
            packed = InnerAddress(ipaddress.ip_address(inner).packed)
            kill_switch.protect(prefix)
            kill_switch.expect(packed, device.name)
            add_address(device.name, packed)
            kill_switch.carry(prefix, device.name, packed, 1300)
        yield device
        for prefix in PREFIXES:
            kill_switch.uncarry(prefix)
            kill_switch.release(prefix)


def test_neighbours_learn_no_inner_address(underlay, filter_type):
    alice = underlay.add_host("alice")
    own = (str(alice.ipv4.ip), str(alice.ipv6.ip))

    def inside():
        with carried(filter_type), Wire(alice) as wire:
            answered = set()
            asker4, asker6 = str(alice.ipv4.network[1]), str(alice.ipv6.network[1])
            for asked4, asked6 in (INNER, own):
                for operation in (1, 3):  # a request and an inverse one
                    arp = l2.ARP(op=operation, hwsrc=wire.own, psrc=asker4, pdst=asked4)
                    wire.send(arp, hardware="ff:ff:ff:ff:ff:ff")
                wire.send(l2.ARP(op=1, hwsrc=wire.own, psrc=asked4, pdst=asked4))
                solicited = ipaddress.ip_address(asked6).packed[-3:]
                group = ipaddress.ip_address(b"\xff\x02" + bytes(9) + b"\x01\xff" + solicited)
                for destination in (str(group), asked6, own[1]):
                    solicitation = inet6.IPv6(src=asker6, dst=destination, hlim=255)
                    wire.send(solicitation / inet6.ICMPv6ND_NS(tgt=asked6))
            for packet in wire.received():
                if packet.src != wire.alice:
                    continue
                if l2.ARP in packet and packet[l2.ARP].op == 2:
                    answered.add(packet[l2.ARP].psrc)
                if inet6.ICMPv6ND_NA in packet:
                    answered.add(packet[inet6.ICMPv6ND_NA].tgt)
        return answered

    setting = ["cat", "/proc/sys/net/ipv4/conf/default/arp_ignore"]
    assert alice.namespace.call(inside) == set(own)
    assert alice.namespace.run(setting).stdout == "0\n", "what it was before"


def too_big(outer, embedded, mtu):
    """Return the error of a router about a packet."""
    if embedded.version == 4:
        return outer / inet.ICMP(type=3, code=4, nexthopmtu=mtu) / embedded
    return outer / inet6.ICMPv6PacketTooBig(mtu=mtu) / embedded


def mtu_towards(namespace, destination):
    shown = namespace.run(["ip", "-j", "route", "get", destination]).stdout
    return json.loads(shown)[0].get("metrics", [{}])[0].get("mtu")


def test_errors_in_the_clear_change_nothing_about_a_circuit(underlay, filter_type, opened):
    """By them an exit would find out which host holds the address that it lent."""
    alice, other = underlay.add_host("alice"), underlay.add_host("other")
    underlay.add_server("bob")
    others = (str(other.ipv4.ip), str(other.ipv6.ip))
    own = (str(alice.ipv4.ip), str(alice.ipv6.ip))
    services = [listening(alice, address, 5353) for address in ("0.0.0.0", "::")]
    for each in services:
        opened.enter_context(each)

    def inside():
        with carried(filter_type), Wire(alice) as wire:
            for index, (destination, inner) in enumerate(zip(DESTINATIONS, INNER, strict=True)):
                layer = (inet.IP, inet6.IPv6)[index]
                echo = (inet.ICMP(type=0), inet6.ICMPv6EchoReply())[index]
                services[index].sendto(b"into the circuit", (destination, 9))
                services[index].sendto(b"in the clear", (others[index], 9))
                asked = layer(src=destination, dst=own[index])
                wire.send(asked / (inet.ICMP(), inet6.ICMPv6EchoRequest())[index])
                mtu = (600, 1280)[index]
                for source, payload in (
                    (inner, inet.UDP(sport=5353, dport=9)),
                    (own[index], inet.UDP(sport=5353, dport=9)),
                    (own[index], inet.UDP(sport=5353, dport=10)),
                    (own[index], inet.TCP(sport=80, dport=9)),
                    (own[index], echo),
                ):
                    embedded = layer(src=source, dst=destination) / payload / Raw(bytes(1000))
                    for router in (others[index], destination):
                        wire.send(too_big(layer(src=router, dst=own[index]), embedded, mtu))
                known = layer(src=own[index], dst=others[index])
                known = known / inet.UDP(sport=5353, dport=9) / Raw(bytes(1000))
                wire.send(too_big(layer(src=others[index], dst=own[index]), known, mtu))
            time.sleep(SILENCE_S)
            return [mtu_towards(alice.namespace, d) for d in (*DESTINATIONS, *others)]

    assert alice.namespace.call(inside) == [1300, 1300, 600, 1280]


@pytest.mark.parametrize("index", [0, 1], ids=["IPv4", "IPv6"])
def test_connections_end_with_the_circuit_that_carried_them_and_no_others(underlay, index):
    alice = underlay.add_host("alice")
    prefix, destination, inner = PREFIXES[index], DESTINATIONS[index], INNER[index]
    mapped = [(socket.AF_INET, ""), (socket.AF_INET6, "::ffff:")]
    families = (mapped, [(socket.AF_INET6, "")])[index]
    packed = InnerAddress(ipaddress.ip_address(inner).packed)

    def connected(family, kind, source, target, before=""):
        new = socket.socket(family, kind)
        new.setblocking(False)
        new.bind((before + source, 0))
        with contextlib.suppress(BlockingIOError):
            new.connect((before + target, 5000))
        return new

    def inside():
        with KillSwitch() as kill_switch, TunDevice.open("anon%d", 1400) as device:
            kill_switch.protect(prefix)
            kill_switch.expect(packed, device.name)
            add_address(device.name, packed)
            kill_switch.carry(prefix, device.name, packed, 1300)
            kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            made = [
                connected(family, kind, inner, destination, before)
                for family, before in families
                for kind in kinds
            ]
            loopback = ("127.0.0.1", "::1")[index]
            other = connected(families[0][0], socket.SOCK_DGRAM, loopback, loopback)
            before = [each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in made]
            kill_switch.uncarry(prefix)
            after = [each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in (*made, other)]
            kill_switch.release(prefix)
        for each in (*made, other):
            each.close()
        return before, after

    before, after = alice.namespace.call(inside)
    assert set(before) == {0}
    assert after == [errno.ECONNABORTED] * len(before) + [0]
