"""Unmodified programs use a path: TCP, UDP and ICMP, IPv4 and IPv6, both ways."""

import json
import sys

import pytest
from doctor_case import Doctor
from lab_overlay import LabOverlay
from probes import flush, send_every_way

from lab.namespaces import LabError
from lab.nodes import PORT, NodeProcess, wait_until
from lab.pinging import pings

pytestmark = pytest.mark.timed

CONTENT = bytes(range(256)) * 4000

SILENT = "10.250.0.1:4500"
"""A bootstrap node that does not answer."""


@pytest.fixture(scope="module")
def overlay(laboratory, tmp_path_factory):
    with LabOverlay(tmp_path_factory.mktemp("programs"), mixes=3) as made:
        made.web.publish("file", CONTENT)
        bob = made.underlay.hosts[-1].namespace
        server = bob.popen(["iperf3", "-s"])
        yield made
        server.kill()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def bob(request, overlay):
    """Bob's address of either family, with a path to it open."""
    address = overlay.web.address if request.param == 4 else overlay.web.address6
    path = overlay.alice.ask("path", "open", address, "--hops", "3")
    yield address
    overlay.alice.ask("path", "close", str(path["number"]))


def run(overlay, *argv, timeout_s=120):
    return overlay.alice.host.namespace.run(list(argv), timeout_s=timeout_s).stdout


def test_curl_downloads_and_the_server_sees_the_exit(overlay, bob):
    host = f"[{bob}]" if ":" in bob else bob
    target = overlay.directory / "curl"
    run(overlay, "curl", "-sS", "--fail", "-g", "-o", str(target), f"http://{host}/file")
    assert target.read_bytes() == CONTENT
    exit_host = overlay.nodes["exit"].host
    assert overlay.web.clients() <= {str(exit_host.ipv4.ip), str(exit_host.ipv6.ip)}


def test_ping_gets_its_answers(overlay, bob):
    assert pings(overlay.alice.host.namespace, bob, count=3).returncode == 0


def test_large_pings_are_carried_in_fragments(overlay, bob):
    namespace, large = overlay.alice.host.namespace, ("-s", "4000", "-M", "dont")
    # Over IPv6 bob learns from the first, lost answer what the exit takes (RFC 8201).
    pings(namespace, bob, *large, count=1, patience_s=1)
    assert pings(namespace, bob, *large, count=2).returncode == 0


# Protocol 253 is for experiments (RFC 3692). Of SCTP, connection tracking takes whole packets only.
REFUSED_AT_ONCE = """
import errno, socket, sys
family, level, recverr, wanted = {
    "4": (socket.AF_INET, socket.IPPROTO_IP, 11, errno.ENOPROTOOPT),
    "6": (socket.AF_INET6, socket.IPPROTO_IPV6, 25, errno.EPROTO),
}[sys.argv[2]]
with socket.socket(family, socket.SOCK_RAW, 253) as raw:
    raw.setsockopt(level, recverr, 1)
    raw.settimeout(5)
    raw.connect((sys.argv[1], 0))
    raw.send(bytes(40))
    try:
        raw.recv(2048)
    except OSError as error:
        assert error.errno == wanted, error
    else:
        raise AssertionError("an answer came")
"""


def test_programs_hear_at_once_that_a_protocol_is_not_carried(overlay, bob):
    version = "6" if ":" in bob else "4"
    run(overlay, sys.executable, "-c", REFUSED_AT_ONCE, bob, version, timeout_s=30)
    counters = overlay.alice.status()["counters"]
    assert counters["protocols_refused"] >= 1


@pytest.mark.parametrize("reverse", [[], ["-R"]], ids=["upload", "download"])
def test_iperf3_runs_over_tcp(overlay, bob, reverse):
    report = json.loads(run(overlay, "iperf3", "-c", bob, "-t", "1", "-J", *reverse))
    assert report["end"]["sum_received"]["bytes"] > 100_000


@pytest.mark.parametrize("reverse", [[], ["-R"]], ids=["upload", "download"])
def test_iperf3_loses_nothing_over_udp_at_a_modest_rate(overlay, bob, reverse):
    rate = ["-u", "-b", "2M", "-l", "900", "-t", "1"]
    report = json.loads(run(overlay, "iperf3", "-c", bob, "-J", *rate, *reverse))
    assert report["end"]["sum"]["packets"] > 100
    assert report["end"]["sum"]["lost_packets"] == 0


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
def test_paths_of_every_length_carry_a_download(overlay, hops):
    alice = overlay.alice
    path = alice.ask("path", "open", overlay.web.address, "--hops", str(hops))
    assert len(path["hops"]) == hops
    assert overlay.fetch() == CONTENT
    wait_until(
        "a measured round trip",
        lambda: alice.ask("path", "list")[0]["rtt_ms"] is not None,
        timeout_s=60,
    )
    assert alice.ask("path", "close", "--all")["closed"] == 1


def test_the_exit_refuses_what_its_policy_refuses_and_its_own_services(overlay):
    """Alice's own node refuses to ask; so the exit is asked by packets of a path to bob."""
    exit_address = overlay.nodes["exit"].address
    done = overlay.alice.host.namespace.run(
        [*overlay.alice.runner, "path", "open", exit_address, "--config",
         str(overlay.alice.configuration)],
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "private" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_second_node_of_the_host_is_told_why_it_has_no_paths_of_its_own(overlay, tmp_path):
    alice = overlay.alice
    alice.ask("path", "open", overlay.web.address, "--hops", "2")
    listen = (f"{alice.address}:{PORT + 1}",)
    second = NodeProcess(alice.host, tmp_path / "second", listen=listen)
    try:
        second.start(SILENT)
        silent = lambda: "bootstrap.silent" in second.log.read_text()  # noqa: E731 - read at once
        wait_until("the word on the bootstrap node", silent, timeout_s=60)
        second.stop()
        second.start(overlay.nodes["boot"])
        wait_until("its start", lambda: second.answers, timeout_s=60)
        overlay.wait_known(second)
        for destination in (overlay.web.address, "203.0.113.77"):
            with pytest.raises(LabError, match="owns the protection of destinations"):
                second.ask("path", "open", destination, "--hops", "2")
        assert overlay.fetch() == CONTENT
        assert alice.status()["protection"] == []
        assert second.ask("path", "list") == []
    finally:
        second.stop()
    assert overlay.fetch() == CONTENT
    assert unwanted(second.log.read_text(), secrets_of(overlay)) == []
    alice.ask("path", "close", "all")


def secrets_of(overlay):
    """What no log may show: addresses, ids and destinations of all parties."""
    words = {overlay.web.address, overlay.web.address6, "100.64.", "fd63:6972", "fd6d:6978"}
    words |= {SILENT.partition(":")[0], "203.0.113.77"}
    for node in overlay.nodes.values():
        words |= {node.address, node.overlay_address, str(node.host.ipv6.ip)}
        words.add(node.status()["node_id"])
    return words


def unwanted(log, words):
    assert "node.up" in log
    return [word for word in words if word in log]


def test_the_logs_of_all_nodes_contain_no_names(overlay):
    """Last of this module: after all that the tests above made the nodes do."""
    words = secrets_of(overlay)
    for node in overlay.nodes.values():
        assert unwanted(node.log.read_text(), words) == []


RESTORED = {
    # First, because the kernel asks by ARP for three seconds what a packet filter let through.
    "traffic control": "tc filter show dev eth0 egress | grep -q direct-action",
    "nft": "nft list table inet anonymous_overlay_guard_28009",
    "nft chains": "nft list chain inet anonymous_overlay_guard_28009 postrouting",
    "iptables": "true",
    "rules": "ip rule | grep -q ^109: && ip -6 rule | grep -q ^109:",
    "routes": "ip route show table 28009 | grep -q anon && "
    "ip -6 route show table 28009 | grep -q anon",
    "circuit addresses": "ip addr show | grep -q 'inet 100[.]' && ip route show table 28009 | "
    "grep -q anon",
    "circuit device": "ip link show up | grep -q anon && ip route show table 28009 | grep -q anon",
    "kernel settings": "test $(cat /proc/sys/net/ipv4/fwmark_reflect) = 1",
}
"""What other programs do to a host, and how it shows that the node has undone it."""

COUNTED = {
    "nft": "packet filter",
    "rules": "routing rules",
    "routes": "routes",
    "traffic control": "traffic control",
    "circuit addresses": "inner addresses",
    "kernel settings": "kernel settings",
}
"""Which counter shows each of these repairs."""


def test_what_other_programs_remove_is_put_back_within_a_second(overlay, tmp_path):
    alice, namespace = overlay.alice, overlay.alice.host.namespace
    destinations = (overlay.web.address, overlay.web.address6)
    paths = [alice.ask("path", "open", each, "--hops", "3") for each in destinations]
    assert alice.status()["protection"] == []
    inner = [address for path in paths for address in path["inner_addresses"]]
    with alice.host.capture(tmp_path / "alice.pcap") as capture:
        for name, restored in RESTORED.items():
            flush(namespace, name)
            send_every_way(alice.host, destinations, inner=inner)

            def back(test=restored):
                return namespace.run(["sh", "-c", test], check=False).returncode == 0

            wait_until(f"what {name} removed", back, timeout_s=5)
    hidden = {*destinations, *inner}
    assert not [p for p in capture.packets() if {p.source, p.destination} & hidden]
    assert alice.status()["protection"] == []
    for name, counted in COUNTED.items():
        # A circuit that changes in that moment puts the filters back by itself, uncounted.
        for _ in range(3):
            if f"repaired_{counted.replace(' ', '_')}" in alice.status()["counters"]:
                break
            flush(namespace, name)
            wait_until(
                f"what {name} removed", lambda: not alice.status()["protection"], timeout_s=5
            )
        assert f"repaired_{counted.replace(' ', '_')}" in alice.status()["counters"]
    for address in destinations:
        assert pings(namespace, address, count=2).returncode == 0
    for number, loss in enumerate(("delete anon0", "set anon0 name other0")):
        with alice.host.capture(tmp_path / f"rebuilt{number}.pcap") as capture:
            namespace.run(["ip", "link", *loss.split()])
            send_every_way(alice.host, destinations, inner=inner)
            wait_until("the device's return", lambda: is_whole(alice), timeout_s=60)
            for address in destinations:
                assert pings(namespace, address, count=2).returncode == 0
        assert not [p for p in capture.packets() if {p.source, p.destination} & hidden]
    assert alice.status()["protection"] == []
    for path in paths:
        alice.ask("path", "close", str(path["number"]))


def is_whole(node):
    """Whether all paths are open again and nothing is missing."""
    states = {path["state"] for path in node.ask("path", "list")}
    return states == {"open"} and node.status()["protection"] == []


def test_an_exit_that_another_filter_keeps_from_forwarding_withdraws_and_comes_back(overlay):
    alice, leaving = overlay.alice, overlay.nodes["exit"]
    path = alice.ask("path", "open", overlay.web.address, "--hops", "1")
    assert overlay.fetch() == CONTENT
    leaving.host.namespace.run(["iptables-legacy", "-P", "FORWARD", "DROP"])
    wait_until("the withdrawal", lambda: leaving.status()["exit_problems"], timeout_s=30)
    (problem,) = leaving.status()["exit_problems"]
    assert "refuses to forward over IPv4 (iptables-legacy, chain FORWARD)" in problem
    assert "; let it pass with: iptables-legacy -I FORWARD" in problem

    def state():
        return alice.ask("path", "list")[0]["state"]

    wait_until("the end of the circuit", lambda: state() == "rebuilding", timeout_s=10)
    leaving.host.namespace.run(["iptables-legacy", "-P", "FORWARD", "ACCEPT"])
    wait_until("the role's return", lambda: not leaving.status()["exit_problems"], timeout_s=30)
    wait_until("another circuit", lambda: state() == "open", timeout_s=120)
    assert overlay.fetch() == CONTENT
    # Its device and an untracked connection are further ways in which it carries nothing.
    told = leaving.log.read_text().count("exit.repaired")
    leaving.host.namespace.run(["ip", "link", "delete", "exit0"])
    repaired = lambda: leaving.log.read_text().count("exit.repaired") > told  # noqa: E731 - read at once
    wait_until("the device's return", repaired, timeout_s=30)
    assert overlay.fetch() == CONTENT
    notrack = ["PREROUTING", "-i", "exit0", "-j", "NOTRACK"]
    leaving.host.namespace.run(["iptables-legacy", "-t", "raw", "-I", *notrack])
    wait_until("the withdrawal", lambda: leaving.status()["exit_problems"], timeout_s=30)
    assert "table raw, chain PREROUTING" in leaving.status()["exit_problems"][0]
    leaving.host.namespace.run(["iptables-legacy", "-t", "raw", "-D", *notrack])
    wait_until("the role's return", lambda: not leaving.status()["exit_problems"], timeout_s=30)
    alice.ask("path", "close", str(path["number"]))


def test_an_exit_without_ipv6_serves_ipv4_and_says_why(overlay):
    alice, leaving = overlay.alice, overlay.nodes["exit"]
    namespace, host = leaving.host.namespace, leaving.host
    router = host.ipv6.network.network_address + 1

    def problems():
        return (leaving.status() or {}).get("exit_problems")

    def refused():
        done = alice.host.namespace.run(
            [*alice.runner, "path", "open", overlay.web.address6, "--hops", "1",
             "--config", str(alice.configuration)], check=False,
        )  # fmt: skip
        return done.returncode == 1 and "exit" in done.stderr

    def serves_ipv4():
        path = alice.ask("path", "open", overlay.web.address, "--hops", "1")
        assert overlay.fetch() == CONTENT
        alice.ask("path", "close", str(path["number"]))

    namespace.run(["ip", "-6", "route", "del", "default"])
    wait_until("the missing route's mention", problems, timeout_s=30)
    assert "no default route over IPv6; add one with: ip -6 route add default" in problems()[0]
    wait_until("the refusal", refused, timeout_s=60)
    serves_ipv4()
    leaving.stop()
    off = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
    namespace.run(["sysctl", "-qw", *off])
    leaving.start()
    wait_until("the exit's start", problems, timeout_s=60)
    (problem,) = problems()
    assert "IPv6 is switched off on this host; switch it on with: sysctl -w" in problem
    assert leaving.status()["roles"] == ["exit", "relay"]
    assert "exit.withdrawn version=6 cause=no_ipv6" in leaving.log.read_text()
    examined = Doctor(namespace, leaving.configuration)
    assert examined.said("exit") == f"{problem}."
    wait_until("the exit's return", lambda: alice.status()["exits"] == 1, timeout_s=60)
    serves_ipv4()
    namespace.run(["sysctl", "-qw", *(each.replace("=1", "=0") for each in off)])
    namespace.configure(
        [f"address add {host.ipv6} dev eth0 nodad", f"route add default via {router}"]
    )
    wait_until("the role over IPv6", lambda: not problems(), timeout_s=30)


def test_an_address_of_the_sources_own_network_is_not_taken(overlay):
    namespace = overlay.alice.host.namespace
    namespace.run(["ip", "address", "add", "100.64.7.1/10", "dev", "eth0"])
    open_path = [*overlay.alice.runner, "path", "open", overlay.web.address, "--hops", "1"]
    done = namespace.run(
        [*open_path, "--config", str(overlay.alice.configuration)], check=False, timeout_s=120
    )
    assert done.returncode == 1
    assert "an inner address that is in use here already" in done.stderr
    namespace.run(["ip", "address", "del", "100.64.7.1/10", "dev", "eth0"])
    path = overlay.alice.ask("path", "open", overlay.web.address, "--hops", "1")
    assert overlay.fetch() == CONTENT
    (lent,) = path["inner_addresses"]
    namespace.run(["ip", "address", "add", f"{lent}/32", "dev", "eth0"])  # a VPN lends it as well

    def inner_addresses():
        return overlay.alice.ask("path", "list")[0]["inner_addresses"]

    wait_until("another address", lambda: inner_addresses() not in ([], [lent]), timeout_s=30)
    assert overlay.fetch() == CONTENT
    namespace.run(["ip", "address", "del", f"{lent}/32", "dev", "eth0"])
    overlay.alice.ask("path", "close", str(path["number"]))
