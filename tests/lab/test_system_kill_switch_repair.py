"""Another program removes a part of the kill switch: nothing leaks, and the part is restored."""

import contextlib
import ipaddress
import time

import pytest
from probes import connected_before, flush, send_every_way, send_over_stations

from lab.reading import ICMPV6, TCP, UDP
from overlay.addresses import InnerAddress
from overlay.system.hidden_addresses import HiddenAddresses
from overlay.system.iptables import Iptables
from overlay.system.kill_switch import KillSwitch
from overlay.system.kill_switch_state import EGRESS, FILTER, ROUTES, RULES
from overlay.system.nftables import Nftables
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice

PREFIXES = (ipaddress.ip_network("203.0.113.10/32"), ipaddress.ip_network("2001:db8:113::/64"))
DESTINATIONS = ("203.0.113.10", "2001:db8:113::10")
INNER = ("100.64.1.2", "fd99::12")
OTHERS = ("10.2.0.2", "fd00:2::2")

WALLS = {
    "nft": FILTER,
    "nft table": FILTER,
    "nft chains": FILTER,
    "nft dormant": FILTER,
    "iptables": FILTER,
    "iptables jump": FILTER,
    "rules": RULES,
    "all rules": RULES,
    "routes": ROUTES,
    "traffic control": EGRESS,
    "traffic control filters": EGRESS,
    "ipsec": None,
    "loopback": None,
}


@pytest.fixture(params=[Nftables, Iptables])
def filter_type(request):
    return request.param


def flushes_of(filter_type):
    """The flushes that concern this packet filter."""
    other = "iptables" if filter_type is Nftables else "nft"
    return [name for name in WALLS if not name.startswith(other)]


@pytest.fixture
def hosts(underlay):
    """Alice, another host, and bob, whose addresses are protected."""
    return underlay.add_host("alice"), underlay.add_host("other"), underlay.add_server("bob")


@contextlib.contextmanager
def protecting(filter_type):
    """In alice's thread: a kill switch that carries both prefixes into a device, and the device."""
    with (
        TunDevice.open("anon%d", 1400) as device,
        KillSwitch(packet_filter=filter_type()) as kill_switch,
    ):
        for prefix, inner in zip(PREFIXES, INNER, strict=True):
            packed = InnerAddress(ipaddress.ip_address(inner).packed)
            add_address(device.name, packed)
            kill_switch.protect(prefix)
            kill_switch.carry(prefix, device.name, packed, 1300)
        yield kill_switch, device


def shown(capture):
    """Packets that show a destination or an inner address: in their header, or asked for."""
    hidden = {*DESTINATIONS, *INNER}
    solicited = {
        str(ipaddress.ip_address(b"\xff\x02" + bytes(9) + b"\x01\xff" + packed[-3:]))
        for packed in (ipaddress.ip_address(each).packed for each in hidden)
        if len(packed) == 16
    }
    return [
        packet
        for packet in capture.packets()
        if {packet.source, packet.destination} & hidden
        or (packet.protocol == ICMPV6 and packet.destination in solicited)
    ]


def test_the_loss_of_one_wall_leaks_nothing_and_is_put_back(hosts, filter_type, exchange, tmp_path):
    alice, other, _ = hosts
    early = connected_before(alice, DESTINATIONS)

    def lose_each_wall():
        with protecting(filter_type) as (kill_switch, device):
            for state in ("carried", "the circuit's device is gone"):
                for name in flushes_of(filter_type):
                    flush(alice.namespace, name)
                    lost = kill_switch.missing()
                    send_every_way(alice, DESTINATIONS, early, INNER)
                    assert WALLS[name] is None or WALLS[name] in lost, (state, name)
                    assert kill_switch.repair() == lost, (state, name)
                    assert kill_switch.missing() == (), (state, name)
                    assert kill_switch.repair() == (), "its own changes are no reason for others"
                device.close()

    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(lose_each_wall)
        send_every_way(alice, OTHERS)
        exchange(alice, other)
    assert shown(capture) == []
    # The same capture saw the same attempts towards others, so it would have seen these.
    for other in OTHERS:
        protocols = [p.protocol for p in capture.packets() if p.destination == other]
        assert protocols.count(TCP) >= 4
        assert protocols.count(UDP) >= 4 + 2
        assert protocols.count(253) >= 2
    for each in early:
        each.close()


def test_a_program_that_chooses_stations_shows_no_destination(
    hosts, filter_type, exchange, tmp_path
):
    """Its packets go to a router, as far as routes see; no right is needed for that."""
    alice, other, _ = hosts

    def send():
        with protecting(filter_type):
            send_over_stations(alice, DESTINATIONS)
        send_over_stations(alice, DESTINATIONS)  # as after a crash

    path = tmp_path / "alice.pcap"
    with alice.capture(path):
        alice.namespace.call(send)
        exchange(alice, other)
    seen = path.read_bytes()
    assert [ipaddress.ip_address(each).packed in seen for each in DESTINATIONS] == [False, False]
    assert b"control" in seen


def test_traffic_control_and_the_packet_filter_each_hold_alone(
    hosts, filter_type, exchange, tmp_path
):
    """Every kind of socket: the routes are gone, and one of the two filters as well."""
    alice, other, _ = hosts
    early = connected_before(alice, DESTINATIONS)
    filters = "nft" if filter_type is Nftables else "iptables"

    def lose_two():
        with protecting(filter_type) as (kill_switch, _):
            for gone in (filters, "traffic control"):
                flush(alice.namespace, "rules", "routes", gone)
                send_every_way(alice, DESTINATIONS, early, INNER)
                assert set(kill_switch.repair()) == {RULES, ROUTES, WALLS[gone]}

    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(lose_two)
        exchange(alice, other)
    assert shown(capture) == []
    for each in early:
        each.close()


def test_what_a_dead_process_protected_is_found_whichever_wall_is_lost(
    hosts, filter_type, exchange, tmp_path
):
    alice, other, _ = hosts
    filters = "nft" if filter_type is Nftables else "iptables"
    another = ipaddress.ip_network("198.51.100.7/32")

    def die_and_take_over():
        with protecting(filter_type):
            pass
        for gone in (filters, "routes"):
            flush(alice.namespace, gone)
            send_every_way(alice, DESTINATIONS)
            with KillSwitch(packet_filter=filter_type()) as kill_switch:
                assert sorted(kill_switch.protected(), key=str) == sorted(PREFIXES, key=str)
                kill_switch.protect(another)
                send_every_way(alice, DESTINATIONS)
                kill_switch.repair()
                assert kill_switch.missing() == ()
                kill_switch.release(another)

    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(die_and_take_over)
        exchange(alice, other)
    assert shown(capture) == []


def test_what_was_set_with_the_other_packet_filter_is_taken_over_and_freed(
    hosts, filter_type, exchange, tmp_path
):
    """Nothing opens while the filter changes, and what is freed is free in both."""
    alice, other, bob = hosts
    now = Iptables if filter_type is Nftables else Nftables

    def change_filters():
        with protecting(filter_type):
            pass
        with KillSwitch(packet_filter=now()) as kill_switch:
            # The routes forgot it, and the chosen filter never knew it.
            flush(alice.namespace, "routes")
        with KillSwitch(packet_filter=now()) as kill_switch:
            assert sorted(kill_switch.protected(), key=str) == sorted(PREFIXES, key=str)
            send_every_way(alice, DESTINATIONS)
            kill_switch.repair()
            assert kill_switch.missing() == ()
            assert filter_type().fingerprint("guard-28009") is None
            send_every_way(alice, DESTINATIONS)
        with KillSwitch(packet_filter=filter_type()) as kill_switch:  # and back
            kill_switch.release(PREFIXES[0])
            send_every_way(alice, DESTINATIONS[1:])
            kill_switch.release(PREFIXES[1])
        assert [kind().fingerprint("guard-28009") for kind in (Iptables, Nftables)] == [None, None]

    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(change_filters)
        exchange(alice, other)
    assert shown(capture) == []
    exchange(alice, bob)


def test_a_device_that_refuses_its_program_keeps_no_other_from_its_own(hosts, caplog):
    alice = hosts[0]

    def run(command):
        return alice.namespace.run(command.split()).stdout

    def kill_switch_all():
        run("ip tuntap add a0 mode tun")
        run("tc qdisc add dev a0 ingress")  # where clsact would be
        run("ip tuntap add b0 mode tun")
        with KillSwitch(packet_filter=Nftables()) as kill_switch:
            kill_switch.protect(*PREFIXES)
            assert "direct-action" in run("tc filter show dev b0 egress")
            assert kill_switch.missing() == (f"{EGRESS} (refused by a0)",)
            flush(alice.namespace, "traffic control")
            assert kill_switch.repair() == (EGRESS,)
            run("tc qdisc del dev a0 ingress")
            assert kill_switch.repair() == ()
            assert kill_switch.missing() == ()
            kill_switch.release(*PREFIXES)
        for each in ("a0", "b0", alice.interface):
            assert "clsact" not in run(f"tc qdisc show dev {each}")

    alice.namespace.call(kill_switch_all)
    lines = [each for each in caplog.messages if each.startswith("kill_switch.no_traffic_control")]
    assert lines == [
        "kill_switch.no_traffic_control devices=1 "
        "reason=setting the egress filter failed (Invalid argument)."
    ]


def test_what_is_asked_before_the_kill_switch_is_told_and_leaks_nothing(
    hosts, exchange, tmp_path, caplog
):
    alice, other, _ = hosts
    first = "ip rule add pref 7 lookup main; ip -6 rule add pref 7 lookup main"
    accepting = "tc filter add dev eth0 egress prio 1 bpf bytecode '1,6 0 0 0' direct-action"
    said = "(another program's is asked first: {})"

    def put_first():
        with protecting(Nftables) as (kill_switch, _):
            for command, wall, name in ((first, RULES, "7"), (accepting, EGRESS, "eth0")):
                alice.namespace.run(["sh", "-c", command])
                send_every_way(alice, DESTINATIONS)
                for _ in range(2):
                    assert kill_switch.repair() == (), "it is the other program's"
                assert kill_switch.missing() == (f"{wall} {said.format(name)}",)
                alice.namespace.run(
                    ["sh", "-c", command.replace(" add ", " del ").split(" bpf ")[0]]
                )
                assert kill_switch.repair() == ()
                assert kill_switch.missing() == ()

    with alice.capture(tmp_path / "alice.pcap") as capture:
        alice.namespace.call(put_first)
        exchange(alice, other)
    assert shown(capture) == []
    for wall, name in ((RULES, "7"), (EGRESS, "eth0")):
        line = f"kill_switch.bypassed what={wall} {said.format(name)}"
        assert caplog.messages.count(line) == 1


def test_a_check_among_ten_thousand_routes_takes_a_fraction_of_a_second(hosts):
    """The event loop of the node waits for it."""
    alice = hosts[0]
    gateway = alice.ipv4.network.broadcast_address - 1
    first = int(ipaddress.ip_address("20.0.0.0"))
    routes = [ipaddress.ip_network((first + 256 * i, 24)) for i in range(10_000)]
    batch = "".join(f"route add {each} via {gateway} onlink dev eth0\n" for each in routes)
    alice.namespace.run(["ip", "-batch", "-"], text_input=batch)

    def check():
        with KillSwitch(packet_filter=Nftables()) as kill_switch:
            kill_switch.protect(*PREFIXES)
            began = time.process_time()  # other processes of a busy machine do not count
            kill_switch.repair()
            took = time.process_time() - began
            assert kill_switch.missing() == ()
            kill_switch.release(*PREFIXES)
            return took

    assert alice.namespace.call(check) < 0.5


WITHOUT_PROGRAMS = """
import ipaddress
from overlay.errors import BackendError
from overlay.system import filter_choice
from overlay.system.kill_switch import KillSwitch
prefix, found = ipaddress.ip_network("203.0.113.10/32"), filter_choice.find_packet_filter

def missing():
    raise BackendError("no packet filter works here.")

with KillSwitch() as kill_switch:
    filter_choice.find_packet_filter = missing
    try:
        kill_switch.protect(prefix)
    except BackendError as error:
        print(error, kill_switch.missing(), flush=True)
    input()
    filter_choice.find_packet_filter = found
    kill_switch.repair()
    print(kill_switch.missing(), flush=True)
    input()
"""


def test_without_programs_of_the_packet_filter_the_other_mechanisms_stay(
    hosts, exchange, tmp_path, script
):
    alice, other, _ = hosts
    protecting_alone = script(alice.namespace, WITHOUT_PROGRAMS)
    assert protecting_alone.said.startswith("no packet filter works here")
    assert protecting_alone.said.endswith(f"('{FILTER}', 'kernel settings')")
    with alice.capture(tmp_path / "alice.pcap") as capture:
        send_every_way(alice, DESTINATIONS[:1])
        exchange(alice, other)
    assert shown(capture) == []
    assert protecting_alone.tell("go on") == "()"


WITHOUT_DESCRIPTORS = """
import ipaddress, os, resource
from overlay.errors import BackendError
from overlay.system.kill_switch import KillSwitch
from overlay.system.{module} import {name}
first, second = map(ipaddress.ip_network, ("203.0.113.10/32", "2001:db8:113::/64"))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
refused = set()
with KillSwitch(packet_filter={name}()) as kill_switch:
    kill_switch.protect(first)
    for spare in range(12):
        for act in (
            kill_switch.missing, kill_switch.disturbed, kill_switch.repair, kill_switch.protected,
            lambda: kill_switch.protect(second), kill_switch.repair,
            lambda: kill_switch.release(second),
            lambda: KillSwitch(table=7, packet_filter={name}()).close(),
        ):
            last = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + spare, hard))
            try:
                act()
            except BackendError as error:
                refused.add(str(error).count("Too many open files"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    kill_switch.protect(second)
    kill_switch.repair()
    assert kill_switch.missing() == (), kill_switch.missing()
    assert refused == {{1}}, refused
print("ready", flush=True)
"""


def test_without_file_descriptors_every_refusal_is_one_sentence(namespace, filter_type, script):
    module = filter_type.__name__.lower()
    source = WITHOUT_DESCRIPTORS.format(module=module, name=filter_type.__name__)
    assert script(namespace, source).said == "ready"


def test_a_device_that_appears_later_is_protected_as_well(hosts, filter_type):
    alice = hosts[0]

    def run(command):
        return alice.namespace.run(command.split()).stdout

    def add_a_device():
        with protecting(filter_type) as (kill_switch, _):
            run("ip link add late0 type veth peer name late1")
            assert kill_switch.missing() == (EGRESS,)
            assert kill_switch.repair() == (), "no other program removed anything"
            assert kill_switch.missing() == ()
            assert "direct-action" in run("tc filter show dev late0 egress")
            for prefix in PREFIXES:
                kill_switch.release(prefix)

    alice.namespace.call(add_a_device)
    for each in ("late0", "late1", alice.interface):
        assert "clsact" not in run(f"tc qdisc show dev {each}")


@pytest.mark.parametrize("version", [4, 6])
def test_another_programs_rules_of_the_local_table_keep_no_address_from_being_hidden(
    namespace, version
):
    addresses = [
        ipaddress.ip_address(text) for text in ("100.64.1.2", "100.64.1.3", "fd99::12", "fd99::13")
    ]
    mine = [each for each in addresses if each.version == version]
    others = ["", "protocol static", "fwmark 5"]

    def hide_both():
        hidden = HiddenAddresses(0x26D69, 0xB5A6FFFF, 109)
        found = []
        for held in (mine[:1], mine):
            found.append((hidden.hide(held), hidden.hides(held), hidden.hide(held)))
        return found

    ip = ["ip", f"-{version}", "rule"]
    namespace.run([*ip, "del", "pref", "0"])
    for condition in others:
        namespace.run([*ip, "add", "pref", "0", "lookup", "local", *condition.split()])
    assert namespace.call(hide_both) == [(True, True, False)] * 2
    shown = namespace.run([*ip, "show"]).stdout.splitlines()
    assert [line.partition("lookup")[0] for line in shown if "lookup local" in line] == [
        "0:\tfrom all fwmark 0x5 ",
        "0:\tfrom all ",
    ]
