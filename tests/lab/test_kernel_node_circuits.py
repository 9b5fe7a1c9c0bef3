"""The node's own processes, with the kernel and without it, in one circuit after the other."""

import contextlib
import errno
import ipaddress
import json
import signal
import socket
import subprocess
import time

import pytest
import trio
from kernel_circuit_rounds import AT_ONCE, new_lines, open_and_close, seen
from kernel_overlay import BUSY_S, KernelOverlay, client
from marks import check_no_marks, headers, inner_address, reset, send_raw
from nat import forget_mappings, map_in_kernel
from questions import Asker, Wire
from streams import echoing_tcp, longest_silence

from lab.nodes import wait_until
from overlay.control.client import RequestFailed
from overlay.errors import OverlayError

pytestmark = pytest.mark.kernel(time_limit_s=1800)

NAMES = ["mixk", "mixu", "exitk", "exitu", "alicek", "aliceu"]
FOREIGN = [
    "xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x99 reqid 7 mode tunnel "
    "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128",
    "xfrm policy add src ::/0 dst fd6d:6978::1/128 dir in priority 9 "
    "tmpl src 127.0.0.1 dst 127.0.0.2 proto esp reqid 7 mode tunnel",
]
RELAYED_MBYTE = 8


@pytest.fixture(scope="module")
def overlay(tmp_path_factory, laboratory):
    with KernelOverlay(tmp_path_factory.mktemp("overlay"), NAMES, wildcards=["mixk"]) as made:
        yield made


@pytest.mark.parametrize(
    ("source", "hops"),
    [
        ("alicek", ["mixk", "exitk"]),
        ("alicek", ["mixu", "mixk", "exitu"]),
        ("aliceu", ["mixk", "mixu", "exitk"]),
        ("alicek", ["mixk", "mixu", "exitu", "exitk"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_any_mixture_of_nodes_carries_every_kind_of_traffic(overlay, source, hops):
    exit_host = overlay.nodes[hops[-1]].host
    for target in overlay.targets():
        seen = exit_host.ipv4.ip if target.version == 4 else exit_host.ipv6.ip
        with overlay.path(source, hops, target) as path:
            assert path.state == "open"
            overlay.ping(source, target)
            assert overlay.tcp_both_ways(source, target) == str(seen)
            assert overlay.udp_both_ways(source, target) == str(seen)
    assert overlay.error_counters() == {}


@pytest.mark.parametrize("version", [4, 6])
def test_what_betrays_a_program_is_normalised_at_the_source(overlay, version):
    target = overlay.targets()[version == 6]
    with overlay.path("alicek", ["mixk", "exitk"], target):
        limit, traffic_class = overlay.arriving("alicek", target, limit=100, traffic_class=0x2A)
        assert traffic_class == 0
        assert limit == 64 - 1, "the exit sends as a host would; the underlay's router takes one"
        assert not overlay.timestamps_agreed("alicek", target)


@pytest.mark.parametrize(
    ("source", "hops"),
    [("alicek", ["mixk", "mixu", "exitk"]), ("aliceu", ["mixk", "exitu"])],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_no_header_shows_a_mark_of_a_server_a_program_or_a_router(overlay, tmp_path, source, hops):
    check_no_marks(overlay, tmp_path, source, hops)


def test_a_reset_that_no_connection_knows_stays_at_the_exit(overlay, tmp_path):
    pools = [ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd69:6e6e:6572::/64")]
    with overlay.bob.capture(tmp_path / "bob.pcap") as seen:
        for version, target in zip((4, 6), overlay.targets(), strict=True):
            with overlay.path("alicek", ["mixk", "exitk"], target) as path:
                inner = inner_address(path, version)
                send_raw(overlay.namespace("alicek"), reset((inner, 7), (str(target), 7)))
                overlay.udp_both_ways("alicek", target)
                assert ipaddress.ip_address(inner) in pools[version == 6]
    sources = {ipaddress.ip_address(header.source) for header in headers(seen.path)}
    assert {each.version for each in sources} == {4, 6}
    assert not [each for each in sources if each in pools[each.version == 6]]


def test_status_names_the_backend_and_the_reason(overlay):
    status = overlay.status("alicek")
    assert (status.backend, status.backend_reason) == ("xfrm", "[ipsec] backend names it")


def test_more_than_four_hops_are_refused_with_a_sentence(overlay):
    hops = ["mixk", "mixu", "exitu", "aliceu", "exitk"]
    with (
        pytest.raises(RequestFailed, match=r'backend "xfrm" carries circuits of at most 4 hops'),
        overlay.path("alicek", hops, overlay.targets()[0]),
    ):
        pass


def test_a_relays_process_makes_no_system_call_for_a_packet(overlay, tmp_path):
    target = overlay.targets()[0]
    process = overlay.nodes["mixk"].pid
    counted = tmp_path / "counted"
    with overlay.path("alicek", ["mixk", "exitk"], target):
        overlay.ping("alicek", target)
        before = packets_of(overlay, "mixk")
        tracer = subprocess.Popen(
            ["strace", "-c", "-f", "-o", str(counted), "-p", str(process)], stderr=subprocess.PIPE
        )
        assert b"attached" in tracer.stderr.readline()
        server = overlay.bob.namespace.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        wait_until("iperf3", lambda: listens(overlay.bob), timeout_s=10)
        begun = time.monotonic()
        overlay.namespace("alicek").run(
            ["iperf3", "-c", str(target), "-n", f"{RELAYED_MBYTE}M"], timeout_s=120
        )
        lasted = time.monotonic() - begun
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=20)
        server.wait(timeout=20)
        relayed = packets_of(overlay, "mixk") - before
    calls = int(counted.read_text().splitlines()[-1].split()[3])
    # What is left is the node's own life: periodic tasks, the DHT, keep-alives, and twice a second
    # a look at filters and settings that other programs may have changed, some hundred calls each.
    assert relayed > 5000
    assert calls < min(100 + 400 * lasted, relayed / 5), (calls, relayed, lasted)


def packets_of(overlay, name):
    """How many packets the node's kernel has opened and sealed, over all SAs."""
    shown = overlay.namespace(name).run(["ip", "-s", "xfrm", "state"]).stdout.splitlines()
    return sum(
        int(line.split("(bytes), ")[1].split("(packets)")[0])
        for line in shown
        if "(bytes), " in line and "(packets)" in line
    )


def listens(host):
    return ":5201" in host.namespace.run(["ss", "-tlnH"]).stdout


def test_without_policies_and_when_killed_a_source_is_silent_until_the_next_start(
    overlay, tmp_path
):
    target, alice = overlay.targets()[0], overlay.nodes["alicek"]
    namespace = overlay.namespace("alicek")
    with client(alice) as asked:
        [report] = asked.open_paths(overlay.request(["mixk", "exitk"], target))
    overlay.ping("alicek", target)
    with alice.host.capture(tmp_path / "flushed.pcap") as capture:
        namespace.run(["ip", "xfrm", "policy", "flush"])
        wait_until(
            "the policies' return",
            lambda: overlay.ping("alicek", target, check=False),
            timeout_s=60,
        )
    assert str(target) not in {str(p.destination) for p in capture.packets()}
    alice.kill()
    namespace.configure(FOREIGN)
    with alice.host.capture(tmp_path / "killed.pcap") as capture:
        assert not overlay.ping("alicek", target, check=False, patience_s=2)
        bound = ["ping", "-c", "1", "-W", "1", "-I", "eth0", str(target)]
        assert namespace.run(bound, check=False).returncode != 0
        inner = ["ping", "-c", "1", "-W", "1", "-I", report.inner_addresses[0], str(target)]
        assert namespace.run(inner, check=False).returncode != 0
    assert str(target) not in {str(p.destination) for p in capture.packets()}
    left = namespace.run(["ip", "xfrm", "state"]).stdout
    assert left.count("proto esp spi") > 1
    alice.start(overlay.nodes["mixk"])
    wait_until("alice's restart", lambda: alice.answers and carries(alice), timeout_s=90)
    overlay.ping("alicek", target)
    found = namespace.run(["ip", "xfrm", "state"]).stdout
    assert not spis(left) & spis(found) - {"0x00000099"}
    policies = namespace.run(["ip", "xfrm", "policy"]).stdout
    assert "0x00000099" in found
    assert "reqid 7 " in policies
    with client(alice) as asked:
        asked.close_path(None)
    namespace.configure(
        [line.replace(" add ", " delete ").split(" reqid")[0] for line in FOREIGN[:1]]
    )
    namespace.configure(["xfrm policy delete src ::/0 dst fd6d:6978::1/128 dir in"])


def carries(node):
    try:
        with client(node) as asked:
            return [path.state for path in asked.paths()] == ["open"]
    except OverlayError:  # it does not answer yet
        return False


def spis(shown):
    return {line.split()[3] for line in shown.splitlines() if "proto esp spi" in line}


DEVICES = {"alicek": ("anonsec0", "anonfrag0", "anonfrag1"), "mixk": ("anonsec0",)}
LARGE_BYTES = 3000


def test_a_path_carries_again_after_devices_were_deleted_and_after_a_restart(overlay, tmp_path):
    target, alice = overlay.targets()[0], overlay.nodes["alicek"]
    with client(alice) as asked:
        asked.open_paths(overlay.request(["mixk", "exitk"], target))
    arrives = lambda: overlay.ping("alicek", target, check=False, size=LARGE_BYTES)  # noqa: E731
    with alice.host.capture(tmp_path / "deleted.pcap") as capture:
        for name, devices in DEVICES.items():
            deleted = "\n".join(f"link delete {device}" for device in devices)
            overlay.namespace(name).run(["ip", "-batch", "-"], text_input=deleted + "\n")
            wait_until(f"the return of {name}'s devices", arrives, timeout_s=60)
    assert str(target) not in {str(p.destination) for p in capture.packets()}
    for name, devices in DEVICES.items():
        status = overlay.status(name)
        assert status.protection == ()
        repaired = {n for n in status.counters if n.endswith("device") and "repaired" in n}
        assert len(repaired) == len({d.rstrip("01") for d in devices}), repaired
    alice.stop()
    assert not overlay.ping("alicek", target, check=False, patience_s=2)
    alice.start()
    wait_until("the path's return", lambda: alice.answers and carries(alice), timeout_s=BUSY_S)
    overlay.tcp_both_ways("alicek", target)
    with client(alice) as asked:
        asked.close_path(None)


INNER_SERVICE, REDIRECTED = 7777, 7778


def test_others_are_answered_and_reach_nothing_through_a_circuit(overlay):
    """The kernel backend's part of docs/decisions/0035; see also test_system_kill_switch_*."""
    alice, exit_host = overlay.nodes["alicek"].host, overlay.nodes["exitk"].host
    own = (str(alice.ipv4.ip), str(alice.ipv6.ip))
    targets = overlay.targets()
    shown = alice.core.run(["ip", "-j", "link", "show", overlay.bob.core_interface]).stdout
    hardware = json.loads(shown)[0]["address"]
    with contextlib.ExitStack() as opened:
        asker = Asker(overlay.bob, hardware, tuple(map(str, targets)), own)
        opened.callback(asker.close)
        services = [opened.enter_context(listening(alice, each)) for each in ("0.0.0.0", "::")]
        alice.namespace.set_kernel(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)
        for each in own:  # so that neighbours know each other when there are questions
            overlay.bob.namespace.run(["ping", "-c", "1", "-W", "20", each])
        free = asker.answers()
        assert all(free[f"{version} {name}"] for version in (4, 6) for name in ("syn 81", "udp 81"))
        for program in ("iptables-legacy", "ip6tables-legacy"):
            overlay.namespace("alicek").run([program, *REDIRECT.format("A").split()])
        for version, service, target in zip((4, 6), services, targets, strict=True):
            with overlay.path("alicek", ["mixk", "exitk"], target) as path:
                (inner,) = [
                    each
                    for each in path.inner_addresses
                    if ipaddress.ip_address(each).version == version
                ]
                assert asker.answers() == free
                asking = opened.enter_context(listening(exit_host, ("0.0.0.0", "::")[version == 6]))
                for port in (INNER_SERVICE, REDIRECTED):
                    with contextlib.suppress(PermissionError):  # the exit's own filter, if it asks
                        asking.sendto(b"are you there?", (inner, port))
                overlay.ping("alicek", target)  # behind what the exit sent, by the same circuit
                service.setblocking(False)
                with pytest.raises(BlockingIOError):
                    service.recv(100)
                if version == 4:
                    shown = overlay.namespace("alicek").run(["ip", "-br", "address"]).stdout
                    assert inner in shown
                    with Wire(alice) as wire:
                        assert wire.arp_answers(own[0], inner) == {own[0]}
        for program in ("iptables-legacy", "ip6tables-legacy"):
            overlay.namespace("alicek").run([program, *REDIRECT.format("D").split()])
        assert asker.answers() == free


REDIRECT = (
    f"-t nat -{{}} PREROUTING -p udp --dport {REDIRECTED} -j REDIRECT --to-ports {INNER_SERVICE}"
)


def listening(host, address):
    def listen():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        new = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind((address, INNER_SERVICE))
        return new

    return host.namespace.call(listen)


UNCARRIED = 253
"""A protocol for experiments (RFC 3692), which no circuit carries."""

NOT_CARRIED = {4: {errno.EPERM, errno.ENOPROTOOPT}, 6: {errno.EPERM}}
"""Over IPv6 the policy for what comes out of circuits drops the ICMP error of this host."""

PROHIBITED = {4: {errno.EHOSTUNREACH}, 6: {errno.EACCES}}
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}


def test_programs_hear_at_once_what_is_refused(overlay):
    """A protocol that no circuit carries, and an address of the exit's own host."""
    exit_host = overlay.nodes["exitk"].host
    for target in overlay.targets():
        own = target + 100
        wider = ipaddress.ip_network((int(target) & ~0xFF, target.max_prefixlen - 8))
        with overlay.path("alicek", ["mixk", "exitk"], wider):
            version = target.version
            heard = refused(overlay, target, socket.SOCK_RAW, UNCARRIED)
            assert heard == NOT_CARRIED[version]
            exit_host.namespace.configure([f"address add {own} dev lo"])
            assert refused(overlay, own, socket.SOCK_DGRAM, 0) == PROHIBITED[version]
            exit_host.namespace.configure([f"address del {own}/{own.max_prefixlen} dev lo"])
    assert overlay.status("alicek").counters["protocols_refused"] >= 2
    assert overlay.status("exitk").counters["exit_refusals_told"] >= 2


def refused(overlay, target, kind, protocol):
    """Send a datagram; return the numbers of the errors that the program hears."""

    def ask():
        family, heard = socket.AF_INET if target.version == 4 else socket.AF_INET6, set()
        with socket.socket(family, kind, protocol) as asking:
            asking.setsockopt(*RECVERR[target.version], 1)
            asking.settimeout(2)
            asking.connect((str(target), 9))
            for act in (lambda: asking.send(bytes(40)), lambda: asking.recv(100)):
                try:
                    act()
                except TimeoutError:
                    pass
                except OSError as error:
                    heard.add(error.errno)
        return heard

    return overlay.namespace("alicek").call(ask)


LONGEST_SILENCE_S = 3.0
"""More than three repetitions by TCP (1.8 s) and what a busy host adds (0.2 s were seen), less than
four (3.5 s). A lost circuit costs 5 s, and its connections never go on."""

TALK_S = 9.0
"""Longer than the probation of a moved link and the change of keys that follows it (6 s)."""

MAPPINGS = [("10.200.0.1", 40_001), ("10.200.0.1", 40_002)]
"""Another address and port, then another port alone."""


def test_a_conversation_goes_on_where_links_move_in_the_kernel(overlay):
    """Situation S12: the address of a source's router changes, its port, a relay's own address."""
    source, mix = overlay.nodes["alicek"].host, overlay.nodes["mixk"].host
    old, other = mix.ipv4.ip, mix.ipv4.ip + 7
    moves = [
        *(lambda at=each: map_in_kernel(source, *at) for each in MAPPINGS),
        lambda: readdress(mix, old, other),
        lambda: readdress(mix, other, old),
    ]
    silences = []
    try:
        with conversation(overlay) as (path, talk):
            for move in moves:
                move()
                silences.append(talk(TALK_S))
            with client(overlay.nodes["alicek"]) as asked:
                [after] = asked.paths()
            assert after.inner_addresses == path.inner_addresses, "it was not rebuilt"
            assert max(silences) < LONGEST_SILENCE_S, silences
    finally:  # later tests use these hosts
        if f" {other}/" in mix.namespace.run(["ip", "-o", "-4", "address"]).stdout:
            readdress(mix, other, old)
        source.core.run(["iptables-legacy", "-t", "nat", "-F"])
        forget_mappings(source)
        wait_until("the news", lambda: knows_at(overlay, "mixk", old), timeout_s=BUSY_S)


@contextlib.contextmanager
def conversation(overlay):
    """A path over two kernels, and a function that talks over it for some seconds."""
    target, namespace = overlay.targets()[0], overlay.namespace("alicek")
    with (
        overlay.bob.namespace.call(lambda: socket.create_server((str(target), 0))) as server,
        overlay.path("alicek", ["mixk", "exitk"], target) as path,
        echoing_tcp(server),
        namespace.call(
            lambda: socket.create_connection(server.getsockname(), timeout=30)
        ) as client_socket,
    ):
        yield path, lambda lasting_s: longest_silence(client_socket, lasting_s)


def readdress(host, before, now):
    """Replace the IPv4 address of a host."""
    host.namespace.configure(
        [
            f"address del {before}/16 dev {host.interface}",
            f"address add {now}/16 dev {host.interface}",
            f"route add default via {host.ipv4.network.network_address + 1} src {now}",
        ]
    )


def knows_at(overlay, name, address):
    """Tell whether a source and an exit know that a node is at an address."""
    told = []
    for asking in ("alicek", "exitk"):
        with client(overlay.nodes[asking]) as asked:
            found = {each.overlay_address: each.endpoints for each in asked.peers()}
        told.append(found.get(overlay.nodes[name].overlay_address, ()))
    return all(endpoints == (f"{address}:4500",) for endpoints in told)


def test_two_hundred_circuits_come_and_go_without_a_trace(overlay):
    """Alice's own stack runs in this process: a program each would take minutes to start."""
    alice = overlay.nodes["alicek"]
    alice.stop()
    hops = [overlay.nodes[name].overlay_address for name in ("mixk", "exitk")]
    names = ("alicek", "mixk", "exitk")
    looked = overlay.namespace("alicek").call(
        lambda: trio.run(open_and_close, alice, hops, lambda: seen(overlay, names))
    )
    assert looked.busy["mixk"].count("dir fwd ") >= 2 * AT_ONCE
    assert looked.after["alicek"] == looked.before["alicek"]
    for name in names[1:]:
        assert new_lines(looked.before[name], looked.after[name]) == {}


def test_without_the_privilege_the_kernel_is_refused_with_a_sentence(overlay):
    node = overlay.nodes["mixk"]
    node.stop()
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = node.host.namespace.run(
        [*command, *node.runner, "up", "--config", str(node.configuration)],
        check=False,
    )
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_stopped_nodes_leave_their_hosts_as_they_were(overlay):
    overlay.stop()
    assert {name: overlay.state(name) for name in NAMES} == overlay.untouched
