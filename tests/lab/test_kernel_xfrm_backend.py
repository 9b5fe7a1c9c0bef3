"""XfrmBackend against a kernel with ESP: the conformance suite, and what the kernel then shows."""

import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from kernel_case import UNPRIVILEGED
from probes import flush

from lab.namespaces import Namespace
from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.ipsec.esp import OutboundSa
from overlay.ipsec.interface import (
    ANY_V6,
    IpsecConfiguration,
    Lifetime,
    PolicyDirection,
    Prefix,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm import netlink
from overlay.ipsec.xfrm.algorithms import algorithm_names
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.sensitive import SecretBytes
from overlay.system.ipsec_firewall import IpsecFirewall
from overlay.system.kill_switch import KillSwitch

pytestmark = pytest.mark.kernel(time_limit_s=900)

ALICE, MIX = Endpoint("127.0.0.1", 4500), Endpoint("127.0.0.2", 4500)
V1 = bytes.fromhex("fd6d6978000000000000000000000001")
C0 = bytes.fromhex("fd636972000000000000000000000000")
INNER = bytes([100, 64, 0, 2])


def onion(spi=0x2000, *, suite=3):
    keymat = SecretBytes(bytes(range(SUITES[suite].keymat_bytes)))
    return SecurityAssociation(Spi(spi), spi, C0, V1, suite, keymat, inbound=True)


def link(*, suite=3):
    return replace(
        onion(0x1000, suite=suite), source=ALICE.packed, destination=MIX.packed,
        encapsulation=UdpEncapsulation(ALICE, MIX),
    )  # fmt: skip


def policy(*associations, destination=V1):
    templates = tuple(Template(sa.source, sa.destination, sa.reqid) for sa in associations)
    return SecurityPolicy(PolicyDirection.IN, Selector(ANY_V6, Prefix.host(destination)), templates)


CONFIGURATION = IpsecConfiguration((onion(), link()), (policy(onion(), link()),))
FOREIGN = [
    "xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x99 reqid 7 mode tunnel "
    "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128",
    "xfrm policy add src ::/0 dst fd6d:6978::1/128 dir in priority 9 "
    "tmpl src 127.0.0.1 dst 127.0.0.2 proto esp reqid 7 mode tunnel",
]
KILLED = """
import random, sys
sys.path.insert(0, "tests/lab")
from test_kernel_xfrm_backend import CONFIGURATION
from overlay.ipsec.xfrm.backend import XfrmBackend
XfrmBackend(rng=random.Random(3)).install(CONFIGURATION)
print("installed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def host(laboratory):
    with Namespace("host") as made:
        yield made


@pytest.fixture
def backend(host):
    with make(host) as made:
        yield made


def make(host, **arguments):
    return host.call(lambda: XfrmBackend(rng=Random(1), **arguments))


def shown(host):
    commands = (
        ["ip", "xfrm", "state"], ["ip", "xfrm", "policy"], ["ip", "address"],
        ["ip", "route"], ["ip", "-6", "route"],
    )  # fmt: skip
    return [host.run(command).stdout for command in commands]


def test_the_conformance_suite_passes_on_this_kernel():
    suite = Path(__file__).parents[1] / "conformance" / "test_ipsec_backend.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite), "-k", "xfrm"],
        env=dict(os.environ, PYTEST_ADDOPTS=""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 20
    assert "skipped" not in done.stdout


def test_this_kernel_has_every_suite(host):
    with make(host) as backend:
        assert backend.capabilities().suites == set(SUITES) - {11}
        assert backend.capabilities().moves_outer_addresses
    with make(host, experiment=True) as backend:
        assert backend.capabilities().suites == set(SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_ip_shows_each_suite_as_installed(host, suite):
    with make(host, experiment=True) as backend:
        backend.install(IpsecConfiguration((onion(suite=suite), link(suite=suite)), ()))
        state = host.run(["ip", "-s", "xfrm", "state"]).stdout
    for name in algorithm_names(SUITES[suite]):
        assert state.count(f" {name} 0x") == 2
    bits = SUITES[suite].icv_bytes * 8
    assert state.count(f" bits) {bits}\n") == 2
    assert state.count("af-unspec") == state.count("esn context") == 2
    assert state.count("encap type espinudp sport 4500 dport 4500") == 1
    assert state.count("replay_window 1024, bitmap-length 32") == 2


MANY = 40
"""More refusals than fit into the smallest buffer that a socket may have."""


@pytest.fixture
def sockets(monkeypatch):
    """The sockets to the kernel's IPsec that are opened after this, in their order."""
    opened, usual = [], netlink.open_socket

    def recorded(groups):
        opened.append(usual(groups))
        return opened[-1]

    monkeypatch.setattr(netlink, "open_socket", recorded)
    return opened


def test_answers_that_are_lost_leave_nothing_behind_and_spare_what_is_not_ours(
    host, sockets, backend
):
    taken = [onion(0x3000 + number) for number in range(MANY)]
    theirs = [
        f"xfrm state add src {address(sa.source)} dst {address(sa.destination)} proto esp spi "
        f"{sa.spi} reqid 7 mode tunnel aead rfc4106(gcm(aes)) 0x{'22' * 20} 128"
        for sa in taken
    ]
    host.configure(theirs)
    before = shown(host)
    answers = sockets[0]
    usual = answers.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    answers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    wanted = IpsecConfiguration((onion(), *taken, link()), CONFIGURATION.policies)
    with pytest.raises(BackendError, match=r"No buffer space available.*sysctl -w net\.core"):
        backend.install(wanted)
    assert shown(host) == before
    assert set(backend.association_counts()) == {"link SAs", "onion SAs"}, "nothing is kept"
    answers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, usual)
    with pytest.raises(BackendError, match="installing a security association failed"):
        backend.install(wanted)
    assert shown(host) == before
    backend.install(CONFIGURATION)


def address(packed):
    return str(ipaddress.ip_address(packed))


def test_closing_leaves_the_host_as_it_was(host):
    before = shown(host)
    with make(host) as backend:
        backend.install(replace(CONFIGURATION, local_addresses=(onion().destination, INNER)))
        assert "fd6d:6978::1/128" in host.run(["ip", "address"]).stdout
        assert shown(host) != before
    assert shown(host) == before


def test_two_hundred_configurations_come_and_go(host):
    with make(host) as backend:
        before = shown(host)
        many = [numbered(number) for number in range(200)]
        for configuration in many:
            backend.install(configuration)
        assert host.run(["ip", "xfrm", "state"]).stdout.count("proto esp spi") == 200
        for configuration in many:
            backend.remove(configuration)
        assert shown(host) == before


def numbered(number):
    sa = replace(onion(0x10000 + number), destination=V1[:14] + bytes([9, number]))
    return IpsecConfiguration((sa,), (policy(sa, destination=sa.destination),), (sa.destination,))


def test_entries_of_other_programs_are_not_touched(host):
    host.configure(FOREIGN)
    before = shown(host)
    with make(host) as backend:
        backend.install(CONFIGURATION)
        backend.remove(CONFIGURATION)
        backend.install(CONFIGURATION)
        backend.flush()
        theirs = SaIdentity(Spi(0x99), bytes([127, 0, 0, 2]))
        assert backend.query(theirs) is None
    assert shown(host) == before
    with make(host) as backend:
        assert backend.leftovers_removed == 0
    assert shown(host) == before


def test_what_a_killed_node_left_is_removed_at_the_next_start(host, script):
    host.configure(FOREIGN)
    before = shown(host)
    started = script(host, KILLED)
    assert started.said == "installed"
    started.kill()
    assert "uid 1835628641" in host.run(["ip", "-s", "xfrm", "policy"]).stdout
    with make(host) as backend:
        # An SA and two policies, and the block of two prefixes in three directions.
        assert backend.leftovers_removed == 3 + 2 * 3
    assert shown(host) == before


def test_a_refusal_of_the_kernel_undoes_the_whole_call(host, backend):
    taken = onion(0x5555)
    host.configure([
        f"xfrm state add src ::1 dst {socket.inet_ntop(socket.AF_INET6, taken.destination)} "
        "proto esp spi 0x5555 mode tunnel aead rfc4106(gcm(aes)) 0x" + "22" * 20 + " 128"
    ])  # fmt: skip
    before = shown(host)
    clash = IpsecConfiguration(
        (onion(), taken, link()), CONFIGURATION.policies, (taken.destination, INNER)
    )
    with pytest.raises(BackendError, match=r"installing a security association.*try again"):
        backend.install(clash)
    assert shown(host) == before
    backend.install(CONFIGURATION)


def test_six_templates_are_refused_with_the_reason(backend):
    with pytest.raises(ValueError, match=r"at most 5 templates .*shorter path"):
        backend.install(IpsecConfiguration((), (policy(*[onion()] * 6),)))
    backend.install(IpsecConfiguration((), (policy(*[onion()] * 5),)))


def test_an_address_stays_as_long_as_one_configuration_holds_it(host, backend):
    first = replace(CONFIGURATION, local_addresses=(INNER,))
    second = replace(numbered(1), local_addresses=(INNER,))
    backend.install(first)
    backend.install(second)
    backend.remove(first)
    assert "100.64.0.2/32" in host.run(["ip", "address"]).stdout
    backend.remove(second)
    assert "100.64.0.2/32" not in host.run(["ip", "address"]).stdout


def test_no_address_is_held_before_its_kill_switch_has_heard_of_it(host, backend):
    wanted = replace(CONFIGURATION, local_addresses=(INNER,))
    before, heard = shown(host), []

    def refuse(address):
        heard.append((address, "100.64.0.2/32" in host.run(["ip", "address"]).stdout))
        if len(heard) == 1:
            raise BackendError("the packet filter refused.")

    backend.before_address = refuse
    with pytest.raises(BackendError, match="the packet filter refused"):
        backend.install(wanted)
    assert shown(host) == before
    backend.install(wanted)
    assert heard == [(INNER, False)] * 2
    backend.remove(wanted)


def test_a_second_node_in_the_same_namespace_is_told_so(host, backend):
    with pytest.raises(BackendError, match="another node in this network namespace"):
        make(host)


def test_soft_limits_are_reported_once_and_hard_ones_end_the_sa(backend):
    limited = replace(onion(), lifetime=Lifetime(soft_s=1.0, hard_s=3.0))
    backend.install(IpsecConfiguration((limited, link()), ()))
    assert expired_within(backend, 30.0) == [limited.identity]
    assert ended_within(backend, limited.identity, 30.0)
    assert backend.soft_expired() == []
    assert backend.query(link().identity) is not None


def expired_within(backend, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        expired = backend.soft_expired()
        if expired:
            return expired
        time.sleep(0.05)
    return []


def ended_within(backend, identity, seconds):
    deadline = time.monotonic() + seconds
    while backend.query(identity) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    return backend.query(identity) is None


def test_what_other_programs_remove_is_put_back(host):
    prefixes = [ipaddress.ip_network(each) for each in ("203.0.113.10/32", "2001:db8:113::/64")]
    held = replace(CONFIGURATION, local_addresses=(INNER, V1))
    lost_by = {
        "ipsec policies": "IPsec policies",
        "overlay addresses": "overlay addresses",
        "iptables": "packet filter of IPsec",
        "iptables jump": "packet filter",
        "rules": "routing rules",
        "routes": "routes",
        "traffic control": "traffic control",
    }

    def policies():
        return sorted(host.run(["ip", "-o", "xfrm", "policy"]).stdout.splitlines())

    def lose_and_repair():
        with (
            XfrmBackend(rng=Random(1)) as backend,
            IpsecFirewall((6978, 6979), forwards=True) as wall,
            KillSwitch(by_ipsec=True) as kill_switch,
        ):
            backend.install(held)
            for prefix, source in zip(prefixes, (INNER, V1), strict=True):
                kill_switch.protect(prefix)
                kill_switch.carry(prefix, backend.device_name, source, 1128)
            parts, whole = (backend, wall, kill_switch), policies()
            for name, lost in lost_by.items():
                flush(host, name)
                assert lost in [each for part in parts for each in part.missing()]
                # Addresses come first, because the kernel drops routes from those that are gone.
                assert lost in [each for part in parts for each in part.repair()]
                assert [part.missing() for part in parts] == [(), (), ()], name
                assert [part.repair() for part in parts] == [(), (), ()], name
            assert policies() == whole
            kill_switch.release(*prefixes)

    host.configure(["link add eth0 type veth peer name eth1", "link set eth0 up"])
    host.call(lose_and_repair)


def test_without_privileges_the_error_says_what_to_do(host):
    command = [*UNPRIVILEGED, sys.executable, "-c", MAKES_A_BACKEND]
    answer = host.run(command, check=False).stdout
    assert "CAP_NET_ADMIN" in answer
    assert answer.rstrip().endswith(".")


MAKES_A_BACKEND = """
import random
from overlay.errors import BackendError
from overlay.ipsec.xfrm.backend import XfrmBackend
try:
    XfrmBackend(rng=random.Random(3))
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_udp_socket_lets_the_kernel_take_esp(host, family):
    with host.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as bound:
        decapsulate_esp(bound)
        assert bound.getsockopt(socket.IPPROTO_UDP, 100) == 2


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_tells_from_where_else_authentic_packets_of_a_link_come(host, backend, family):
    """Not of forged ones, nor of those that come from the peer's endpoint."""
    here, there = (ALICE, MIX) if family == 4 else (Endpoint("::1", 4500), Endpoint("::1", 4501))
    inbound = replace(
        onion(0x1000), source=here.packed, destination=there.packed,
        encapsulation=UdpEncapsulation(here, there),
    )  # fmt: skip
    sender = OutboundSa(replace(inbound, inbound=False), Random(2), lambda _: None)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    inner = bytes.fromhex("6000000000003b40") + C0 + V1  # no next header, no payload

    def send(packets):
        with (
            socket.socket(kind, socket.SOCK_DGRAM) as receiver,
            socket.socket(kind, socket.SOCK_DGRAM) as peer,
            socket.socket(kind, socket.SOCK_DGRAM) as moved,
        ):
            receiver.bind(there)
            decapsulate_esp(receiver)
            peer.bind(here)
            moved.bind((here.host, 0))
            for packet, from_peer in packets:
                (peer if from_peer else moved).sendto(packet, there)
            time.sleep(0.2)  # the kernel may decrypt on another processor
            return Endpoint(*moved.getsockname()[:2])

    backend.install(IpsecConfiguration((inbound,), (policy(inbound),)))
    sealed = [sender.seal(inner, 41, 1e9) for _ in range(3)]
    forged = sealed[0][:-1] + bytes([sealed[0][-1] ^ 1])
    host.call(lambda: send([(sealed[0], True), (forged, False)]))
    assert backend.moved_peers.drain() == {}
    elsewhere = host.call(lambda: send([(sealed[1], False), (sealed[2], False)]))
    assert backend.moved_peers.drain() == {0x1000: elsewhere}
