"""Circuits carried by the kernel, alone and together with userspace nodes.

No error counter of any node's kernel may move while a circuit is up, nothing may be left.
"""

import contextlib
import ipaddress
import socket
import threading
from pathlib import Path

import pytest
from marks import ROUTER, SERVER, headers, marked_datagram, send_raw
from streams import answer_reversed, ask_reversed, family
from xfrm_circuits import INNER, PORT, Circuit, running

from lab.capture import Capture
from lab.pinging import pings
from lab.reading import ESP, UDP
from lab.underlay import Underlay
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.forms import body_of
from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_GETPOLICY,
    XFRM_MSG_GETSA,
    userpolicy_dump,
    usersa_dump,
)
from overlay.ipsec.xfrm.netlink import Request, XfrmSocket
from overlay.system.flow_labels import FlowLabels
from overlay.system.ipsec_firewall import IpsecFirewall
from overlay.system.iptables import Iptables

pytestmark = pytest.mark.kernel(time_limit_s=1800)

MOST_HOPS = 4
NET = Path("/proc/thread-self/net")
TRANSFER_BYTES = 20_000


@pytest.fixture(scope="module")
def underlay(laboratory):
    """alice, four Mix-nodes and bob."""
    with Underlay() as made:
        for name in ("alice", *(f"mix{number + 1}" for number in range(MOST_HOPS))):
            made.add_host(name)
        made.add_server("bob")
        for host in made.hosts:
            host.namespace.set_kernel(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        yield made


@pytest.fixture(scope="module")
def untouched(underlay):
    return [entries(host) for host in underlay.hosts]


@pytest.fixture(autouse=True)
def _nothing_is_left(underlay, untouched):
    yield
    assert [entries(host) for host in underlay.hosts] == untouched


def entries(host):
    """SAs, policies, addresses and routes; read without starting a program each time."""
    return host.namespace.call(_entries)


def _entries():
    with XfrmSocket() as netlink:
        dumps = [
            (XFRM_MSG_GETSA, body_of(usersa_dump())),
            (XFRM_MSG_GETPOLICY, body_of(userpolicy_dump())),
        ]
        counts = [len(netlink.dump(Request(*each))) for each in dumps]
    # Not how the kernel has arranged its table, nor link-local routes, which come when they like.
    trie = [each for each in (NET / "fib_trie").read_text().splitlines() if "--" not in each]
    routes = [line.split() for line in (NET / "ipv6_route").read_text().splitlines()]
    lasting = sorted((*each[:2], each[-1]) for each in routes if each[0][:2] not in ("fe", "ff"))
    return counts, trie, (NET / "if_inet6").read_text(), lasting


def ends(underlay, version):
    bob = underlay.hosts[-1]
    return INNER[version == 6], (bob.ipv4 if version == 4 else bob.ipv6).ip


def ping(underlay, version):
    own, target = ends(underlay, version)
    done = pings(underlay.hosts[0].namespace, target, "-q", "-I", str(own), count=2)
    assert done.returncode == 0, done.stdout


def tcp_both_ways(underlay, version):
    """Bob returns, reversed, all that alice sent."""
    own, target = ends(underlay, version)
    alice, bob = underlay.hosts[0].namespace, underlay.hosts[-1].namespace
    sent = bytes(range(250)) * (TRANSFER_BYTES // 250)
    with bob.call(lambda: socket.create_server((str(target), 0), family=family(target))) as server:
        answering = threading.Thread(target=answer_reversed, args=(server, len(sent), []))
        answering.start()
        with alice.call(lambda: socket.socket(family(target), socket.SOCK_STREAM)) as client:
            client.settimeout(60)
            client.bind((str(own), 0))
            client.connect(server.getsockname()[:2])
            ask_reversed(client, sent)
        answering.join()


def carries_everything(circuit, underlay, kinds):
    with running(circuit, underlay, kinds):
        for version in (4, 6):
            ping(underlay, version)
            tcp_both_ways(underlay, version)


@pytest.mark.parametrize(("hops", "underlay_version"), [(1, 6), (2, 4), (3, 6), (4, 4)])
def test_the_kernel_carries_circuits(underlay, hops, underlay_version):
    carries_everything(Circuit(hops, underlay_version=underlay_version), underlay, "k" * (hops + 1))


@pytest.mark.parametrize(
    "kinds", ["ku", "uk", "uku", "kkuk", "ukku", "kuuk", "kukuk", "ukuku", "uuukk"]
)
def test_kernel_and_userspace_nodes_share_a_circuit(underlay, kinds):
    carries_everything(Circuit(len(kinds) - 1), underlay, kinds)


@pytest.mark.parametrize("suite", SUITES, ids=lambda number: SUITES[number].name)
def test_every_suite_is_the_same_in_kernel_and_userspace(underlay, suite):
    """In "kuk" the kernel seals for itself and for an engine, on links and in onion SAs."""
    circuit = Circuit(2, onion_suite=suite, link_suite=suite)
    with running(circuit, underlay, "kuk"):
        ping(underlay, 4)
        ping(underlay, 6)


def test_links_with_tfc_padding_carry_traffic(underlay):
    carries_everything(Circuit(2, link_pad_to=1300), underlay, "kuk")


@pytest.mark.parametrize("hops", [1, 3])
def test_alice_and_each_hop_exchange_control_datagrams(underlay, hops):
    circuit = Circuit(hops)
    with running(circuit, underlay, "k" * (hops + 1)):
        for hop in range(1, hops + 1):
            near, far = circuit.circuit_address(hop - 1), circuit.overlay_address(hop)
            exchange_datagram(underlay, (0, near), (hop, far))
        for left in range(hops):
            signalling = [(node, circuit.overlay_address(node)) for node in (left, left + 1)]
            exchange_datagram(underlay, *signalling)


def exchange_datagram(underlay, sender, receiver):
    sockets = []
    for number, address in (sender, receiver):
        host = underlay.hosts[number].namespace
        sockets.append(host.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)))
        sockets[-1].bind((socket.inet_ntop(socket.AF_INET6, address), 0))
        sockets[-1].settimeout(20)
    near, far = sockets
    with near, far:
        near.sendto(b"question", far.getsockname())
        question, asker = far.recvfrom(100)
        assert (question, asker) == (b"question", near.getsockname())
        far.sendto(b"answer", asker)
        assert near.recv(100) == b"answer"


def test_control_without_esp_stays_with_the_nodes_socket(underlay):
    alice, mix = underlay.hosts[:2]
    circuit = Circuit(1)
    with running(circuit, underlay, "kk") as nodes:
        nodes[1].socket.settimeout(10)
        nodes[0].socket.sendto(bytes(4) + b"control", (str(mix.ipv4.ip), PORT))
        assert nodes[1].socket.recvfrom(100) == (
            bytes(4) + b"control", (str(alice.ipv4.ip), PORT)
        )  # fmt: skip


@contextlib.contextmanager
def cleared(hosts):
    """What a node's kernel backend does about header fields, with the filter of this kernel."""
    with contextlib.ExitStack() as opened:
        for host in hosts:
            wall = IpsecFirewall((), forwards=True, packet_filter=Iptables())
            labels = host.namespace.call(lambda: FlowLabels(Iptables()))
            opened.callback(host.namespace.call, labels.close)
            host.namespace.call(wall.install)
            opened.callback(host.namespace.call, wall.remove)
        yield


def layers_of_an_answer(underlay, circuit, directory):
    """Let bob answer with marked headers and routers mark links; return each node's headers."""
    own, target = ends(underlay, 6)
    hosts = underlay.hosts[: circuit.hops + 1]
    for program in ("iptables-legacy", "ip6tables-legacy"):
        rule = ["-p", "udp", "--dport", str(PORT), "-j", "TOS", "--set-tos", hex(ROUTER)]
        underlay.core.run([program, "-t", "mangle", "-A", "FORWARD", *rule])
    with running(circuit, underlay, "k" * (circuit.hops + 1)), contextlib.ExitStack() as opened:
        paths = [directory / f"{host.name}.pcap" for host in hosts]
        for host, path in zip(hosts, paths, strict=True):
            opened.enter_context(Capture(host.namespace, "eth0", path, most_packets=4000))
        with hosts[0].namespace.call(lambda: socket.socket(family(own), socket.SOCK_DGRAM)) as to:
            to.bind((str(own), 0))
            to.settimeout(20)
            port = to.getsockname()[1]
            answer = marked_datagram(SERVER, (str(target), 7), (str(own), port), b"answer")
            send_raw(underlay.hosts[-1].namespace, answer)
            assert to.recv(100) == b"answer"
    for program in ("iptables-legacy", "ip6tables-legacy"):
        underlay.core.run([program, "-t", "mangle", "-F", "FORWARD"])
    clear = {str(own), str(target)}
    return [[h for h in headers(p) if not {h.source, h.destination} <= clear] for p in paths]


@pytest.mark.parametrize("underlay_version", [4, 6])
def test_no_layer_and_no_link_shows_a_header_field_of_a_server_or_a_router(
    underlay, tmp_path, underlay_version
):
    circuit = Circuit(3, underlay_version=underlay_version)
    with cleared(underlay.hosts[:4]):
        seen = layers_of_an_answer(underlay, circuit, tmp_path)
    onions = [h for found in seen for h in found if h.protocol == ESP]
    assert len(onions) >= 1 + 1 + 3, "each relay saw one layer, alice all of them"
    assert {(h.flow_label, h.traffic_class, h.hop_limit) for h in onions} == {(0, 0, 64)}
    for host, found in zip(underlay.hosts, seen, strict=False):
        assert not any(header.marked_by(SERVER) for header in found), host.name
        own = {str(host.ipv4.ip), str(host.ipv6.ip)}
        sent = [h for h in found if h.source in own]
        assert not any(h.traffic_class for h in sent), "a router's mark goes no further"


def test_a_flow_label_that_the_exit_lets_through_ends_at_the_next_hop(underlay, tmp_path):
    circuit = Circuit(3, underlay_version=6)
    with cleared(underlay.hosts[:3]):
        alice, first, second, exits = layers_of_an_answer(underlay, circuit, tmp_path)
    marked = [h for h in (*exits, *second) if h.flow_label == SERVER.flow_label]
    assert {h.protocol for h in marked} == {UDP, ESP}, "Linux copies it to the onion and the link"
    made_by_the_exit = str(ipaddress.ip_address(circuit.overlay_address(3)))
    for header in (*alice, *first):
        assert header.flow_label == 0 or header.source == made_by_the_exit
    assert not any(h.flow_label for h in second if h.source == str(underlay.hosts[2].ipv6.ip))
