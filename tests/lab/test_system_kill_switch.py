import contextlib
import errno
import ipaddress
import json
import socket
import sys

import pytest
from scapy.layers import inet
from scapy.packet import Raw

from lab.reading import ICMPV6, UDP
from overlay.addresses import Endpoint, InnerAddress
from overlay.errors import BackendError
from overlay.packet_sizes import SEGMENT_MTU
from overlay.system.iptables import Iptables
from overlay.system.kill_switch import KILL_SWITCH_TABLE, NODE_MARK, KillSwitch
from overlay.system.local_address import local_address_towards
from overlay.system.nftables import Nftables
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice
from overlay.system.udp import bound_socket

PREFIXES = (ipaddress.ip_network("203.0.113.10/32"), ipaddress.ip_network("2001:db8:113::/64"))
DESTINATIONS = ("203.0.113.10", "2001:db8:113::10")
INNER = ("100.64.1.2", "fd99::12")
OTHERS = ("10.2.0.2", "fd00:2::2")
SO_BINDTODEVICE = 25

OWNER = """
import ipaddress, sys
from overlay.system.kill_switch import KillSwitch
from overlay.system.{module} import {name}
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice

kill_switch = KillSwitch(packet_filter={name}())
device = TunDevice.open("anon%d", 1400)
for prefix, inner in (("203.0.113.10/32", "100.64.1.2"), ("2001:db8:113::/64", "fd99::12")):
    packed = ipaddress.ip_address(inner).packed
    add_address(device.name, packed)
    kill_switch.protect(ipaddress.ip_network(prefix))
    kill_switch.carry(ipaddress.ip_network(prefix), device.name, packed, 1300)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=[Nftables, Iptables])
def filter_type(request):
    return request.param


@pytest.fixture
def hosts(underlay):
    """Alice, another host, and bob, whose addresses are protected."""
    return underlay.add_host("alice"), underlay.add_host("other"), underlay.add_server("bob")


def owner_source(filter_type):
    return OWNER.format(module=filter_type.__module__.rsplit(".", 1)[1], name=filter_type.__name__)


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connected_sockets(alice, destinations):
    """Sockets that have their route before anything is protected."""

    def connect():
        made = []
        for destination in destinations:
            made.append(socket.socket(family_of(destination), socket.SOCK_DGRAM))
            made[-1].connect((destination, 5000))
            made[-1].send(b"before")
        return made

    return alice.namespace.call(connect)


def send_in_every_way(alice, destinations):
    """Send to each destination as programs do: plain, with an own address, bound to a device."""

    def plain(new, own):
        pass

    def from_own_address(new, own):
        new.bind((own, 0))

    def bound_to_device(new, own):
        new.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, alice.interface.encode())

    def both(new, own):
        from_own_address(new, own)
        bound_to_device(new, own)

    def send():
        for destination in destinations:
            own = str(alice.ipv6.ip if ":" in destination else alice.ipv4.ip)
            for prepare in (plain, from_own_address, bound_to_device, both):
                with socket.socket(family_of(destination), socket.SOCK_DGRAM) as new:
                    prepare(new, own)
                    for _ in range(3):
                        with contextlib.suppress(OSError):
                            new.sendto(b"secret", (destination, 5000))
                with socket.socket(family_of(destination), socket.SOCK_STREAM) as new:
                    new.settimeout(0)
                    prepare(new, own)
                    with contextlib.suppress(OSError):
                        new.connect((destination, 80))

    alice.namespace.call(send)


def seen(capture, addresses):
    """Packets that show one of the addresses: as destination, or asked for by ARP or NDP."""
    asked_for = {
        str(ipaddress.ip_address(b"\xff\x02" + bytes(9) + b"\x01\xff" + packed[-3:]))
        for packed in (ipaddress.ip_address(address).packed for address in addresses)
        if len(packed) == 16
    }
    return [
        packet
        for packet in capture.packets()
        if packet.destination in addresses
        or (packet.protocol == ICMPV6 and packet.destination in asked_for)
    ]


def test_nothing_leaves_outside_the_circuit_even_when_the_node_is_killed(
    hosts, script, exchange, filter_type, tmp_path
):
    alice, other, _ = hosts
    early = connected_sockets(alice, (*DESTINATIONS, *OTHERS))
    owner = script(alice.namespace, owner_source(filter_type))
    assert owner.said == "ready"
    with alice.capture(tmp_path / "alice.pcap") as capture:
        send_in_every_way(alice, (*DESTINATIONS, *OTHERS))
        owner.kill()
        send_in_every_way(alice, (*DESTINATIONS, *OTHERS))
        for each in early:
            with each, contextlib.suppress(OSError):
                each.send(b"after")
        exchange(alice, other)
    assert seen(capture, DESTINATIONS) == []
    # The same capture saw the same attempts towards others, so it would have seen these.
    for other in OTHERS:
        assert len([p for p in seen(capture, (other,)) if p.protocol == UDP]) >= 2 * 9 + 1


def test_a_second_process_finds_and_removes_what_a_killed_one_left(
    hosts, script, exchange, filter_type, tmp_path
):
    alice, _, bob = hosts
    before = kernel_state(alice.namespace)
    owner = script(alice.namespace, owner_source(filter_type))
    owner.kill()
    assert kernel_state(alice.namespace) != before

    def take_over():
        with KillSwitch(packet_filter=filter_type()) as kill_switch:
            found = kill_switch.protected()
            for prefix in found:
                kill_switch.release(prefix)
            return found, kill_switch.protected()

    found, remaining = alice.namespace.call(take_over)
    assert sorted(found, key=str) == sorted(PREFIXES, key=str)
    assert remaining == []
    assert kernel_state(alice.namespace) == before
    with alice.capture(tmp_path / "alice.pcap") as capture:
        send_in_every_way(alice, DESTINATIONS)
        exchange(alice, bob)
    for destination in DESTINATIONS:
        assert len([p for p in seen(capture, (destination,)) if p.protocol == UDP]) >= 6


def test_nothing_leaves_from_an_inner_address_but_into_its_circuit(
    hosts, script, exchange, filter_type, tmp_path
):
    """Not even to destinations that are not protected: an exit that sends from such a one might
    be answered by this host's own firewall (REJECT), and whoever sits there would see this host."""
    alice, other, _ = hosts
    owner = script(alice.namespace, owner_source(filter_type))
    assert owner.said == "ready"

    def send(sources):
        for source, destination in zip(sources, OTHERS, strict=True):
            with socket.socket(family_of(destination), socket.SOCK_DGRAM) as new:
                new.bind((source, 0))
                with contextlib.suppress(PermissionError):  # the filter's, told at once
                    new.sendto(b"from here", (destination, 5000))

    own = (str(alice.ipv4.ip), str(alice.ipv6.ip))
    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(lambda: send(INNER))
        alice.namespace.call(lambda: send(own))
        exchange(alice, other)
    sources = {p.source for p in capture.packets() if p.destination in OTHERS}
    assert sources.isdisjoint(INNER)
    assert sources.issuperset(own)


def test_what_spoke_through_a_circuit_does_not_go_on_outside_once_the_kill_switch_ends(
    hosts, exchange, filter_type, tmp_path
):
    """Linux checks an IPv6 source address when a socket is bound to it, and never again."""
    alice, _, bob = hosts
    prefix, destination = PREFIXES[1], DESTINATIONS[1]
    (early,) = connected_sockets(alice, [destination])

    def from_inner_address(kind):
        new = socket.socket(socket.AF_INET6, kind)
        new.settimeout(0)
        new.bind((INNER[1], 0))
        with contextlib.suppress(BlockingIOError):
            new.connect((destination, 5000))
        return new

    def speak_until_the_kill_switch_ends():
        with KillSwitch(packet_filter=filter_type()) as kill_switch:
            with TunDevice.open("anon%d", 1400) as device:
                packed = InnerAddress(ipaddress.ip_address(INNER[1]).packed)
                add_address(device.name, packed)
                kill_switch.protect(prefix)
                kill_switch.carry(prefix, device.name, packed, 1300)
                made = [from_inner_address(k) for k in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
            kill_switch.release(prefix)
        return made

    with alice.capture(tmp_path / "alice.pcap") as capture:
        datagrams, stream = alice.namespace.call(speak_until_the_kill_switch_ends)
        with early, datagrams, stream:
            for each in (datagrams, early):
                with contextlib.suppress(OSError):
                    each.send(b"after")
            refusal = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        exchange(alice, bob)
    sources = {p.source for p in seen(capture, [destination]) if p.protocol == UDP}
    assert INNER[1] not in sources
    assert refusal == errno.ECONNABORTED
    assert str(alice.ipv6.ip) in sources, "what never was in a circuit goes on"


def kernel_state(namespace):
    commands = ["ip rule", "ip -6 rule", "ip route show table all", "nft list ruleset",
                "iptables-legacy-save", "ip6tables-legacy-save"]  # fmt: skip
    shown = [namespace.run(command.split()).stdout for command in commands]
    lines = [line.split(" expires")[0] for text in shown for line in text.splitlines()]
    # Not compared: what the kernel does by itself once it notices the cable, and dates,
    # counters and empty tables of iptables-save.
    lines = [line for line in lines if " dev eth0" not in line]
    return [line for line in lines if line.startswith(("-A", ":AO")) or line[:1] not in "#:*C"]


def test_carried_packets_enter_the_device_with_the_inner_address_and_fitting_segments(
    namespace, filter_type
):
    def inside():
        with (
            KillSwitch(packet_filter=filter_type()) as kill_switch,
            TunDevice.open("anon%d", 1400) as device,
        ):
            for prefix, inner in zip(PREFIXES, INNER, strict=True):
                packed = InnerAddress(ipaddress.ip_address(inner).packed)
                add_address(device.name, packed)
                for _ in range(2):
                    kill_switch.protect(prefix)
                    kill_switch.carry(prefix, device.name, packed, 1300)
            shown = [_route_to(namespace, destination) for destination in DESTINATIONS]
            for prefix in PREFIXES:
                for _ in range(2):
                    kill_switch.uncarry(prefix)
            blocked = [_route_to(namespace, destination) for destination in DESTINATIONS]
            for prefix in PREFIXES:
                for _ in range(2):
                    kill_switch.release(prefix)
            return shown, blocked, kill_switch.protected()

    shown, blocked, protected = namespace.call(inside)
    for route, inner, headers in zip(shown, INNER, (40, 60), strict=True):
        assert route["dev"] == "anon0"
        assert route["prefsrc"] == inner
        assert {"mtu": 1300, "advmss": SEGMENT_MTU - headers}.items() <= route["metrics"][0].items()
    assert blocked == [None, None]
    assert protected == []


def _route_to(namespace, destination):
    done = namespace.run(["ip", "-j", "route", "get", destination], check=False)
    routes = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    return routes[0] if routes and routes[0].get("type") != "unreachable" else None


def test_the_nodes_own_datagrams_reach_a_peer_at_a_protected_place(hosts, script):
    alice, _, bob = hosts
    script(alice.namespace, owner_source(Nftables))
    owns = (str(alice.ipv4.ip), str(alice.ipv6.ip))
    for destination, own in zip(DESTINATIONS, owns, strict=True):
        peer = Endpoint(destination, 4500)
        with (
            bob.namespace.call(lambda peer=peer: bound_socket(peer)) as receiver,
            alice.namespace.call(
                lambda own=own: bound_socket(Endpoint(own, 0), mark=NODE_MARK)
            ) as sender,
        ):
            receiver.settimeout(60)
            sender.sendto(b"esp", peer)
            assert receiver.recvfrom(100)[0] == b"esp"
        found = alice.namespace.call(lambda peer=peer: local_address_towards(peer, mark=NODE_MARK))
        assert str(found) == own


def test_a_neighbour_cannot_find_out_the_inner_address(hosts, script, filter_type):
    alice, _, _ = hosts
    script(alice.namespace, owner_source(filter_type))

    def listen(address):
        new = socket.socket(family_of(address), socket.SOCK_DGRAM)
        new.bind((address, 6000))
        new.settimeout(0)
        return new

    def probe():
        for inner in INNER:
            with socket.socket(family_of(inner), socket.SOCK_DGRAM) as new:
                new.sendto(b"are you there?", (inner, 6000))

    for inner, alices in zip(INNER, (alice.ipv4.ip, alice.ipv6.ip), strict=True):
        alice.core.run(["ip", "route", "add", inner, "via", str(alices)])
    addresses = (*INNER, str(alice.ipv4.ip), str(alice.ipv6.ip))
    listening = [alice.namespace.call(lambda a=a: listen(a)) for a in addresses]
    alice.core.call(probe)
    # What follows on the same path arrives, so the probes have arrived before it or never.
    for index, new in enumerate(listening[2:]):
        destination = addresses[2 + index]

        def control(destination=destination):
            with socket.socket(family_of(destination), socket.SOCK_DGRAM) as sender:
                sender.sendto(b"control", (destination, 6000))

        alice.core.call(control)
        new.settimeout(60)
        assert new.recv(100) == b"control"
    for new in listening[:2]:
        with pytest.raises(BlockingIOError):
            new.recv(100)
    for new in listening:
        new.close()


def test_a_part_of_a_carried_network_can_have_a_circuit_of_its_own(namespace):
    whole, part = ipaddress.ip_network("198.51.0.0/16"), ipaddress.ip_network("198.51.100.0/24")

    def inside():
        with (
            KillSwitch() as kill_switch,
            TunDevice.open("anon%d", 1400) as first,
            TunDevice.open("anon%d", 1400) as second,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
        ):
            for prefix, device, inner in (
                (whole, first, "100.64.0.2"),
                (part, second, "100.64.0.3"),
            ):
                packed = InnerAddress(ipaddress.ip_address(inner).packed)
                add_address(device.name, packed)
                kill_switch.protect(prefix)
                kill_switch.carry(prefix, device.name, packed, 1300)
            program.sendto(b"x", ("198.51.7.7", 9))
            program.sendto(b"x", ("198.51.100.7", 9))
            kill_switch.uncarry(part)
            with pytest.raises(OSError):  # noqa: PT011 - whichever errno: it did not go
                program.sendto(b"x", ("198.51.100.7", 9))

    namespace.call(inside)


def test_what_is_carried_or_uncarried_together_changes_the_filter_once(namespace):
    class Counted(Nftables):
        replaced = 0

        def replace(self, table):
            self.replaced += 1
            super().replace(table)

    def inside():
        counted = Counted()
        with (
            TunDevice.open("anon%d", 1400) as device,
            KillSwitch(packet_filter=counted) as kill_switch,
        ):
            kill_switch.protect(*PREFIXES)
            packed = [InnerAddress(ipaddress.ip_address(inner).packed) for inner in INNER]
            blocking = counted.replaced
            with kill_switch.together():
                for inner in packed:
                    kill_switch.expect(inner, device.name)
            for inner in packed:
                add_address(device.name, inner)
            with kill_switch.together():
                for prefix, inner in zip(PREFIXES, packed, strict=True):
                    kill_switch.carry(prefix, device.name, inner, 1300)
            before = counted.replaced
            assert (before, kill_switch.missing()) == (blocking + 2, ())
            with kill_switch.together():
                for prefix in PREFIXES:
                    kill_switch.uncarry(prefix)
                during = counted.replaced
                with (
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
                    pytest.raises(OSError),  # noqa: PT011 - whichever errno: it did not go
                ):
                    program.sendto(b"x", (DESTINATIONS[0], 9))
            left = counted.replaced, kill_switch.missing()
            with kill_switch.together():
                kill_switch.release(*PREFIXES)
            return before, during, left, kill_switch.protected()

    before, during, left, protected = namespace.call(inside)
    assert during == before
    assert left == (before + 1, ())
    assert protected == []


def test_two_nodes_cannot_share_a_kill_switch_table_but_may_have_one_each(namespace):
    def inside():
        with (
            KillSwitch() as first,
            KillSwitch(table=KILL_SWITCH_TABLE + 1) as second,
        ):
            first.protect(PREFIXES[0])
            second.protect(PREFIXES[1])
            with pytest.raises(BackendError, match="another node in this network namespace owns"):
                KillSwitch()
            second.release(PREFIXES[1])
            return first.protected()

    assert namespace.call(inside) == [PREFIXES[0]]


def test_carrying_what_is_not_protected_is_a_programming_error(namespace):
    def inside():
        with KillSwitch() as kill_switch:
            kill_switch.carry(PREFIXES[0], "lo", InnerAddress(bytes(4)), 1300)

    with pytest.raises(ValueError, match="protected before"):
        namespace.call(inside)


def test_without_rights_the_kill_switch_says_how_to_get_them(namespace):
    code = (
        "import ipaddress\n"
        "from overlay.system.kill_switch import KillSwitch\n"
        "from overlay.system.nftables import Nftables\n"
        "kill_switch = KillSwitch(packet_filter=Nftables())\n"
        "kill_switch.protect(ipaddress.ip_network('203.0.113.10/32'))\n"
    )
    done = namespace.run(
        ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--",
         sys.executable, "-c", code],
        check=False,
    )  # fmt: skip
    assert "BackendError: claiming the device name ao-guard-28009 failed" in done.stderr
    assert "unshare -Urn" in done.stderr
    assert "203.0.113.10" not in done.stderr.splitlines()[-1]


def test_an_exit_cannot_call_on_services_of_the_source(namespace, filter_type):
    """Not even under the destination's address; answers to what the source began pass."""

    def inside():
        with (
            KillSwitch(packet_filter=filter_type()) as kill_switch,
            TunDevice.open("anon%d", 1400) as device,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service,
        ):
            packed = InnerAddress(ipaddress.ip_address(INNER[0]).packed)
            add_address(device.name, packed)
            kill_switch.protect(PREFIXES[0])
            kill_switch.carry(PREFIXES[0], device.name, packed, 1300)
            service.bind(("", 7777))
            service.settimeout(0.3)
            heard = []
            for asked_before in (False, True):
                if asked_before:
                    service.sendto(b"question", (DESTINATIONS[0], 53))
                device.write_batch([_from_exit(b"answer")])
                try:
                    heard.append(service.recv(100))
                except TimeoutError:
                    heard.append(None)
            return heard

    assert namespace.call(inside) == [None, b"answer"]


def _from_exit(payload):
    header = inet.IP(src=DESTINATIONS[0], dst=INNER[0])
    return bytes(header / inet.UDP(sport=53, dport=7777) / Raw(payload))
