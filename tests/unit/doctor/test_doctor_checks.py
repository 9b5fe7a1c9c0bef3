"""What the doctor says about files, addresses, devices, settings, exits and clocks."""

import errno
import ipaddress
import os
import socket
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
from doctor_setups import DEFAULTS, LACKS, UNKNOWN, WORKS, only, refuse, setup

from overlay.addresses import OVERLAY_NETWORKS
from overlay.config import (
    IpsecSettings,
    NetworkSettings,
    NodeSettings,
    RoleSettings,
)
from overlay.doctor import Purpose, clock, files, limits, network, rights
from overlay.doctor.exits import exit_role, relay_filters
from overlay.doctor.findings import NodeStatus
from overlay.identity import LocalIdentity
from overlay.keyfile import write_identity
from overlay.system.devices import Device
from overlay.system.exit_problems import ExitProblem, forwarding_problem
from overlay.system.filter_choice import ChosenFilter
from overlay.system.foreign_filters import ForeignChain
from overlay.system.iptables import Iptables
from overlay.system.kernel_clock import ClockState
from overlay.system.nftables import Nftables
from overlay.system.privileges import CAP_NET_ADMIN, CAP_NET_RAW
from overlay.system.udp import VersionMissing

EXIT_OF_TWO = {"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}


@pytest.fixture
def node(tmp_path):
    """A configured node's setup, its files as "overlay init" leaves them."""
    tmp_path.chmod(0o700)
    settings = NodeSettings(state_dir=tmp_path, control_socket=tmp_path / "run" / "control.sock")
    write_identity(settings.key_file, LocalIdentity.generate(Random(1)))
    return setup(path=tmp_path / "overlay.toml", node=settings)


def test_fresh_files_of_a_node_are_fine(node):
    for check in (files.key_file, files.state_directory, files.control_socket):
        assert only(check(node)).outcome is WORKS


def test_without_a_configuration_no_file_is_looked_for():
    assert only(files.key_file(DEFAULTS)).outcome is UNKNOWN
    assert "overlay init" in only(files.key_file(DEFAULTS)).said
    assert files.state_directory(DEFAULTS) == []
    assert files.control_socket(DEFAULTS) == []


def test_a_key_file_that_others_may_read_is_told_with_the_command(node):
    node.configuration.node.key_file.chmod(0o640)
    finding = only(files.key_file(node))
    assert finding.outcome is LACKS
    assert "chmod 600" in finding.said


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_state_directory_that_others_may_write_to_is_refused(node, mode):
    node.configuration.node.state_dir.chmod(mode)
    assert (
        f"chmod 700 {node.configuration.node.state_dir}" in only(files.state_directory(node)).said
    )


def test_a_missing_state_directory_is_told_how_to_be_made(tmp_path):
    missing = setup(node=NodeSettings(state_dir=tmp_path / "none"))
    assert f"mkdir -p -m 700 {tmp_path}/none" in only(files.state_directory(missing)).said


def test_the_control_sockets_directory_must_be_private(node):
    directory = node.configuration.node.control_socket.parent
    directory.mkdir()
    directory.chmod(0o755)  # whatever umask a test before has left
    assert "chmod 700" in only(files.control_socket(node)).said
    assert only(files.control_socket(node)).outcome is LACKS


def test_a_file_in_the_control_sockets_place_is_named(node):
    path = node.configuration.node.control_socket
    path.parent.mkdir(mode=0o700)
    path.touch()
    assert "not a socket" in only(files.control_socket(node)).said


def test_looking_for_the_control_socket_makes_nothing(node):
    before = sorted(node.configuration.node.state_dir.rglob("*"))
    files.control_socket(node)
    assert sorted(node.configuration.node.state_dir.rglob("*")) == before


def test_a_node_that_answers_is_no_obstacle(node):
    path = node.configuration.node.control_socket
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        assert "answers" in only(files.control_socket(node)).said
        assert {each.outcome for each in network.udp_ports(node, bind=refuse)} == {WORKS}
    assert only(files.control_socket(node)).outcome is WORKS, "a dead socket is replaced"


def test_a_kernel_without_ipv6_lacks_nothing_for_the_default_wildcards():
    def bind(endpoint):
        if ":" in endpoint.host:
            raise VersionMissing("opening a UDP socket failed (Address family not supported).")

    four, six = network.udp_ports(DEFAULTS, bind=bind)
    assert (four.outcome, six.outcome) == (WORKS, WORKS)
    assert "left out" in six.said


def test_a_port_is_bound_and_given_back():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        settings = NetworkSettings(listen=(network.Endpoint("127.0.0.1", port),))
        taken = only(network.udp_ports(setup(network=settings)))
    free = only(network.udp_ports(setup(network=settings)))
    again = only(network.udp_ports(setup(network=settings)))
    assert (taken.outcome, free.outcome, again.outcome) == (LACKS, WORKS, WORKS)
    assert "another program has this port" in taken.said


PEER = network.Endpoint("198.51.100.7", 4500)


def test_an_address_to_tell_others_is_advertised_or_found_by_a_route():
    advertised = setup(network=NetworkSettings(advertise=(PEER,), allow_private_endpoints=True))
    joining = setup(network=NetworkSettings(bootstrap=(PEER,), allow_private_endpoints=True))
    have = lambda: {PEER.address.packed}  # noqa: E731 - short
    assert only(network.reachability(advertised, refuse, have)).outcome is WORKS
    ours = ipaddress.ip_address("192.0.2.9")
    assert "192.0.2.9" in only(network.reachability(joining, lambda peer: ours)).said
    lost = only(network.reachability(joining, refuse))
    assert lost.outcome is LACKS
    assert "advertise" in lost.said
    assert "route" in lost.said


def test_an_advertised_address_that_this_host_lacks_is_noted_unless_other_nodes_reach_it():
    advertised = setup(network=NetworkSettings(advertise=(PEER,), allow_private_endpoints=True))
    noted = only(network.reachability(advertised, refuse, frozenset))
    assert (noted.outcome, noted.subject) == (UNKNOWN, f"advertised {PEER}")
    assert "router" in noted.said
    running = NodeStatus(SimpleNamespace(reachability={str(PEER): "reachable"}))
    found = network.reachability(replace(advertised, running=running), refuse, frozenset)
    assert {each.outcome for each in found} == {WORKS}


def test_an_advertised_port_at_which_the_node_does_not_listen_is_named():
    other = network.Endpoint(PEER.host, 4501)
    advertised = setup(network=NetworkSettings(advertise=(other,), allow_private_endpoints=True))
    found = only(network.reachability(advertised, refuse, lambda: {other.address.packed}))
    assert found.outcome is LACKS
    assert "port 4500" in found.said


def test_a_running_node_tells_what_tests_of_its_endpoints_have_shown():
    shown = {
        str(PEER): "not reachable",
        "[2a00::7]:4500": "reachable",
        "[2a00::8]:4500": "untested",
    }
    running = SimpleNamespace(reachability=shown)
    asked = replace(setup(network=NetworkSettings()), running=NodeStatus(running))
    _, *found = network.reachability(asked, refuse)
    assert [each.outcome for each in found] == [LACKS, WORKS, UNKNOWN]
    assert "forward this UDP port" in found[0].said
    assert {each.needed_for for each in (found[0], found[2])} == {(Purpose.ADVICE,)}


def test_without_a_configuration_a_missing_address_is_advice():
    assert only(network.reachability(DEFAULTS)).needed_for == (Purpose.ADVICE,)


@pytest.mark.parametrize(
    ("mtu", "outcome"),
    [(9000, WORKS), (1500, WORKS), (1499, UNKNOWN), (1280, UNKNOWN), (1279, LACKS)],
)
def test_the_mtu_of_the_outward_device_is_judged(mtu, outcome):
    devices = lambda: [Device("lo", 65_536, loopback=True), Device("a", mtu), Device("b", 100)]  # noqa: E731 - short
    finding = only(network.device_mtu(DEFAULTS, devices, lambda: frozenset({"a"})))
    assert finding.outcome is outcome
    assert finding.subject == "MTU of a"
    obstacle = finding.outcome is LACKS and finding.required_by(DEFAULTS.purposes)
    assert not obstacle, "links over IPv4 work with any MTU"


def test_without_default_route_every_device_is_judged_and_without_device_that_is_told():
    devices = lambda: [Device("a", 1500), Device("b", 1500)]  # noqa: E731 - short
    assert len(network.device_mtu(DEFAULTS, devices, frozenset)) == 2
    own = lambda: [Device("a", 1500), Device("anon0", 1300), Device("exit1", 1300)]  # noqa: E731 - short
    assert only(network.device_mtu(DEFAULTS, own, frozenset)).subject == "MTU of a"
    assert "ip link set" in only(network.device_mtu(DEFAULTS, list, frozenset)).said


def test_an_exit_needs_a_default_route():
    assert only(network.way_out(DEFAULTS, lambda: frozenset({"b", "a"}))).said.endswith("a, b")
    finding = only(network.way_out(DEFAULTS, frozenset))
    assert (finding.outcome, finding.needed_for) == (LACKS, (Purpose.EXIT,))
    assert "ip route add default" in finding.said


def forwarding(values, *, writable):
    return network.forwarding(DEFAULTS, values.get, lambda name: writable)


def test_forwarding_that_is_on_is_enough():
    on = dict.fromkeys(EXIT_OF_TWO, "1")
    assert [each.outcome for each in forwarding(on, writable=False)] == [WORKS] * 2


def test_forwarding_that_is_off_is_switched_on_by_a_node_that_needs_it():
    assert [each.outcome for each in forwarding(EXIT_OF_TWO, writable=True)] == [WORKS] * 2


def test_forwarding_that_cannot_be_switched_on_lacks_with_the_command():
    v4, v6 = forwarding(EXIT_OF_TWO, writable=False)
    assert (v4.outcome, v6.outcome) == (LACKS, LACKS)
    assert "sysctl -w net.ipv4.ip_forward=1" in v4.said
    assert "sysctl -w net.ipv6.conf.all.forwarding=1" in v6.said
    assert v4.needed_for == (Purpose.EXIT,)
    assert v6.needed_for == (Purpose.EXIT, Purpose.KERNEL_RELAY)


def test_a_kernel_without_ipv6_says_so():
    _, v6 = forwarding({"net/ipv4/ip_forward": "1"}, writable=True)
    assert "has no IPv6" in v6.said
    assert v6.needed_for == (Purpose.KERNEL_RELAY,)


def exits(problems=(), passed=(4, 6), **roles):
    return exit_role(
        setup(roles=RoleSettings(**{"exit": True, **roles})),
        lambda pools: list(problems),
        lambda pools, policy: [
            forwarding_problem(pool, chains=lambda _: [])
            for pool in pools
            if pool.version not in passed
        ],
    )


def problem(version, kind="no_default_route", *, of_configuration=False):
    return ExitProblem(version, kind, f"no way over IPv{version}", "add one", of_configuration)


def test_an_exit_over_both_versions_works():
    assert [each.outcome for each in exits()] == [WORKS] * 2


def test_an_exit_over_one_version_is_one_and_the_other_is_advice():
    works, lacking = exits([problem(6)])
    assert (lacking.outcome, works.outcome) == (LACKS, WORKS)
    assert lacking.said == "no way over IPv6; add one."
    assert lacking.needed_for == (Purpose.ADVICE,)


def test_an_exit_over_no_version_lacks():
    assert [each.needed_for for each in exits([problem(4), problem(6)])] == [(Purpose.EXIT,)] * 2


def test_a_pool_that_is_in_use_is_an_obstacle_by_itself():
    lacking, _ = exits([problem(4, "pool_in_use", of_configuration=True)])
    assert lacking.needed_for == (Purpose.EXIT,)


def test_a_filter_that_refuses_to_forward_lacks_with_the_command():
    v4, v6 = exits(passed=())
    assert "iptables -I FORWARD -s 100.64.0.0/10 -j ACCEPT" in v4.said
    assert "ip6tables -I FORWARD" in v6.said


def test_forwarding_is_tried_for_an_exit_alone():
    assert [each.outcome for each in exits(passed=(), exit=False)] == [WORKS] * 2


def relays(backend, *found, relay=True):
    asked = setup(roles=RoleSettings(relay=relay), ipsec=IpsecSettings(backend=backend))
    return relay_filters(asked, lambda version: list(found) if version == 6 else [])


def test_a_filter_that_drops_what_a_relay_of_the_kernel_forwards_is_named():
    drops = ForeignChain("ip6tables", "filter", "FORWARD")
    (told,) = relays("xfrm", drops)
    assert (told.outcome, told.needed_for) == (UNKNOWN, (Purpose.KERNEL_RELAY,))
    assert f"ip6tables -I FORWARD -s {OVERLAY_NETWORKS[0]} -j ACCEPT" in told.said
    assert only(relays("auto", drops)).needed_for == (Purpose.ADVICE,)
    assert only(relays("xfrm")).outcome is WORKS
    asks = ForeignChain("ip6tables", "filter", "FORWARD", certain=False)
    assert only(relays("xfrm", asks)).outcome is WORKS
    assert relays("userspace", drops) == relays("xfrm", drops, relay=False) == []


def test_what_cannot_be_tried_is_unknown():
    assert only(exit_role(setup(), refuse)).outcome is UNKNOWN


@pytest.mark.parametrize(
    ("devices", "settings", "outcome"),
    [
        (["a"], {"all": "1"}, WORKS),
        (["a", "b"], {}, WORKS),
        (["a", "b"], {"all": "2", "a": "1"}, WORKS),
        (["a", "b"], {"a": "1"}, UNKNOWN),
        (["a", "b"], {"all": "1"}, UNKNOWN),
    ],
)
def test_strict_source_checks_matter_with_several_devices(devices, settings, outcome):
    read = {f"net/ipv4/conf/{name}/rp_filter": value for name, value in settings.items()}.get
    up = lambda: [Device("lo", 1, loopback=True), *(Device(name, 1500) for name in devices)]  # noqa: E731 - short
    finding = only(network.reverse_path(DEFAULTS, read, up))
    assert finding.outcome is outcome
    assert (outcome is WORKS) or "rp_filter=2" in finding.said


@pytest.mark.parametrize(("count", "outcome"), [("10", WORKS), ("90", LACKS), ("100", LACKS)])
def test_a_full_table_of_connections_is_told(count, outcome):
    values = {"net/netfilter/nf_conntrack_count": count, "net/netfilter/nf_conntrack_max": "100"}
    finding = only(limits.kernel_tables(DEFAULTS, values.get))
    assert finding.outcome is outcome
    assert (outcome is WORKS) or "sysctl -w net.netfilter.nf_conntrack_max=400" in finding.said


@pytest.mark.parametrize(
    ("name", "least"), [("net/core/rmem_max", 212_992), ("net/ipv6/route/max_size", 4096)]
)
def test_small_limits_are_told_with_the_command(name, least):
    assert only(limits.kernel_tables(DEFAULTS, {name: str(least)}.get)).outcome is WORKS
    finding = only(limits.kernel_tables(DEFAULTS, {name: str(least - 1)}.get))
    assert finding.outcome is LACKS
    assert f"sysctl -w {name.replace('/', '.')}=" in finding.said


def test_limits_that_a_kernel_does_not_show_are_not_judged():
    assert limits.kernel_tables(DEFAULTS, {}.get) == []


def test_capabilities_are_named_one_by_one():
    admin, raw = rights.privileges(DEFAULTS, lambda: frozenset({CAP_NET_RAW}))
    assert (admin.outcome, raw.outcome) == (LACKS, WORKS)
    assert "CAP_NET_ADMIN" in admin.said
    admin, raw = rights.privileges(DEFAULTS, lambda: frozenset({CAP_NET_ADMIN}))
    assert (admin.outcome, raw.outcome) == (WORKS, LACKS)


def test_a_refused_device_or_filter_is_told_in_its_own_words():
    for check in (rights.tun_device, rights.packet_filter):
        finding = only(check(DEFAULTS, refuse))
        assert (finding.outcome, finding.said[-12:]) == (LACKS, "run as root.")
        assert Purpose.EXIT in finding.needed_for


def test_the_trial_device_is_closed():
    closed = []

    class Tun:
        def close(self):
            closed.append(self)

    assert only(rights.tun_device(DEFAULTS, lambda name, mtu: Tun())).outcome is WORKS
    assert len(closed) == 1


def test_the_packet_filter_is_named_by_its_program():
    chosen = ChosenFilter(Iptables(), Nftables())
    finding = only(rights.packet_filter(DEFAULTS, lambda: chosen))
    assert finding.said == "iptables accepts rules for IPv4 and IPv6"


@pytest.mark.parametrize(("user", "remedy"), [(0, "CAP_SYS_ADMIN"), (1000, "sysctl -w")])
def test_refused_namespaces_are_told_for_root_and_for_others(monkeypatch, user, remedy):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert only(rights.namespaces(DEFAULTS, lambda: 0)).outcome is WORKS
    finding = only(rights.namespaces(DEFAULTS, lambda: errno.EPERM))
    assert remedy in finding.said
    assert "Operation not permitted" in finding.said


def judged(now=4e9, *, synchronised=True, error_s=0.01):
    return only(clock.clock(DEFAULTS, lambda: now, lambda: ClockState(synchronised, error_s)))


def test_a_clock_that_a_service_sets_works():
    assert judged().outcome is WORKS


def test_a_clock_that_no_service_sets_is_not_trusted_and_not_refused():
    assert judged(synchronised=False).outcome is UNKNOWN
    assert only(clock.clock(DEFAULTS, lambda: 4e9, refuse)).outcome is UNKNOWN


def test_a_clock_with_a_great_error_is_refused():
    assert judged(error_s=601.0).outcome is LACKS


def test_a_clock_behind_a_file_is_refused_even_if_a_service_sets_it(node):
    written = node.configuration.node.key_file.stat().st_mtime
    ask = lambda: ClockState(synchronised=True, error_s=0.0)  # noqa: E731 - short
    slow = only(clock.clock(node, lambda: written - 3_600, ask))
    assert slow.outcome is LACKS
    assert "60 minutes behind" in slow.said
    assert only(clock.clock(node, lambda: written - 590, ask)).outcome is WORKS
