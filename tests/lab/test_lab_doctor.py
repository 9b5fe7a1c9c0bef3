"""``overlay doctor`` on hosts that lack one thing each; its own remedies mend them."""

import socket
import subprocess
import sys
import time

import pytest
from doctor_case import Doctor, configured, facts

from lab.nodes import NodeProcess, wait_until
from lab.underlay import Underlay
from overlay.errors import BackendError
from overlay.ipsec.xfrm.netlink import XfrmSocket
from overlay.ipsec.xfrm.probe import try_suite

pytestmark = pytest.mark.timed

NOBODY = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]


@pytest.fixture(scope="module")
def host(laboratory):
    """A host with a default route, as most have."""
    with Underlay() as underlay:
        made = underlay.add_host("alice").namespace
        up = lambda: "NO-CARRIER" not in made.run(["ip", "link"]).stdout  # noqa: E731 - short
        wait_until("the cable's coming up", up, timeout_s=30)
        yield made


def test_a_usual_host_can_run_a_node_and_is_left_as_it_was(host, tmp_path):
    configuration = configured(tmp_path / "node")
    before, files = facts(host), sorted(tmp_path.rglob("*"))
    examined = Doctor(host, configuration)
    assert (examined.status, examined.obstacles) == (0, [])
    assert facts(host) == before
    assert sorted(tmp_path.rglob("*")) == files
    for subject in ("UDP 127.0.0.1:4500", "TUN device", "packet filter", "private keys"):
        assert examined.outcome(subject) == "works", subject


def test_an_ordinary_user_can_relay_but_be_no_exit(host, tmp_path):
    relay, leaving = (
        configured(tmp_path / "relay"),
        configured(tmp_path / "x", roles={"exit": True}),
    )
    assert Doctor(host, relay, prefix=NOBODY).status == 0
    examined = Doctor(host, leaving, prefix=NOBODY)
    assert examined.status == 1
    assert "CAP_NET_ADMIN" in examined.said("TUN device")
    assert {"CAP_NET_ADMIN", "TUN device", "packet filter"} <= set(examined.obstacles)
    assert Doctor(host, leaving).status == 0


def test_an_exit_without_a_way_out_is_told_so(namespace, tmp_path):
    examined = Doctor(namespace, configured(tmp_path / "exit", roles={"exit": True}))
    obstacles = ["default route", "exit over IPv4", "exit over IPv6"]
    assert (examined.status, examined.obstacles) == (1, obstacles)
    give_way_out(namespace)
    settled = lambda: "tentative" not in namespace.run(["ip", "address"]).stdout  # noqa: E731 - short
    wait_until("the addresses' coming up", settled, timeout_s=30)
    before = facts(namespace)
    examined = Doctor(namespace, tmp_path / "exit" / "overlay.toml")
    assert examined.status == 0
    assert examined.outcome("exit over IPv4") == "works"
    assert facts(namespace) == before
    namespace.run(["iptables-legacy", "-P", "FORWARD", "DROP"])
    started = time.monotonic()
    examined = Doctor(namespace, tmp_path / "exit" / "overlay.toml")
    assert time.monotonic() - started < 10  # 3 s on a machine of its own
    assert examined.obstacles == ["exit over IPv4", "exit over IPv6"]
    remedy = examined.said("exit over IPv4").partition("pass with: ")[2].removesuffix(".")
    namespace.run(["sh", "-c", remedy])
    examined = Doctor(namespace, tmp_path / "exit" / "overlay.toml")
    assert examined.outcome("exit over IPv4") == "works"


def give_way_out(host, *, mtu=1500):
    host.configure([
        f"link add out mtu {mtu} type veth peer name other", "link set other up",
        "link set out up", "route add default dev out",
    ])  # fmt: skip


def test_a_port_that_another_program_holds_is_named(host, tmp_path):
    configuration = configured(tmp_path / "node")
    with host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 4500))
        examined = Doctor(host, configuration)
    assert (examined.status, examined.obstacles) == (1, ["UDP 127.0.0.1:4500"])
    assert "another program has this port" in examined.said("UDP 127.0.0.1:4500")


def test_a_key_file_that_others_can_read_is_mended_by_the_command_that_is_told(host, tmp_path):
    configuration = configured(tmp_path / "node")
    (tmp_path / "node" / "identity.key").chmod(0o644)
    examined = Doctor(host, configuration)
    assert (examined.status, examined.obstacles) == (1, ["private keys"])
    remedy = examined.said("private keys").partition("run: ")[2].partition(" (")[0]
    subprocess.run(remedy.split(), check=True)
    assert Doctor(host, configuration).status == 0


def test_a_small_mtu_is_told_with_its_consequence(namespace, tmp_path):
    give_way_out(namespace, mtu=1400)
    examined = Doctor(namespace, configured(tmp_path / "node"))
    assert examined.status == 0
    assert "fragments" in examined.said("MTU of out")
    namespace.configure(["link set dev out mtu 1200"])
    examined = Doctor(namespace, tmp_path / "node" / "overlay.toml")
    assert (examined.status, examined.outcome("MTU of out")) == (0, "lacks")
    assert "links over IPv4 only" in examined.said("MTU of out")


def test_a_running_node_is_no_obstacle_to_itself(laboratory, tmp_path):
    with Underlay() as underlay:
        node = NodeProcess(underlay.add_host("alice"), tmp_path / "node", exits=True)
        node.start(f"{underlay.add_host('boot').ipv4.ip}:4500")
        try:
            wait_until("the node's start", lambda: node.answers, timeout_s=60)
            before = facts(node.host.namespace)
            examined = Doctor(node.host.namespace, node.configuration)
            assert (examined.status, examined.obstacles) == (0, [])
            assert "a node already answers" in examined.said("control socket")
            assert facts(node.host.namespace) == before
            tell_why_it_has_not_joined(node)
        finally:
            node.stop()


def tell_why_it_has_not_joined(node):
    """Nothing listens at the bootstrap node; then this host's own filters drop datagrams."""
    space, boot = node.host.namespace, "bootstrap 10.2.0.2:4500"
    said = lambda: Doctor(space, node.configuration).said(boot)  # noqa: E731 - short
    # The router's kernel sends one ICMP error in a second, and the node's datagrams cause them too.
    wait_until("the error", lambda: "no program has that UDP port" in said(), timeout_s=60)
    for chain in ("INPUT", "OUTPUT"):
        space.run(["iptables-legacy", "-P", chain, "DROP"])
    space.run(["iptables-legacy", "-I", "INPUT", "-i", "lo", "-j", "ACCEPT"])
    examined = Doctor(space, node.configuration)
    assert "a packet filter of this host drops datagrams to it" in examined.said(boot)
    remedy = examined.said("datagrams' packet filter").partition("accept them with: ")[2]
    assert remedy.count("iptables-legacy") == 2
    space.run(["sh", "-c", remedy])
    examined = Doctor(space, node.configuration)
    assert examined.outcome("datagrams' packet filter") == "works"


def test_the_kernel_backend_without_esp_names_the_modules(host, tmp_path):
    if host.call(kernel_has_esp):
        pytest.skip("the running kernel has ESP; inside the kernel laboratory it is taken away")
    examined = Doctor(host, configured(tmp_path / "node", ipsec={"backend": "xfrm"}))
    assert examined.status == 1
    assert "kernel ESP" in examined.obstacles
    said = examined.said("kernel ESP")
    assert said.endswith(".")
    assert "esp4" in said
    assert 'backend = "userspace"' in said


def kernel_has_esp():
    from random import Random

    try:
        with XfrmSocket() as netlink:
            return any(try_suite(netlink, Random(1), 8)) is False
    except BackendError:
        return False


def test_people_read_it_on_a_terminal_and_nothing_is_on_standard_error(host, tmp_path):
    configuration = configured(tmp_path / "node")
    command = [sys.executable, "-m", "overlay", "doctor", "--wait", "60"]
    done = host.run([*command, "--config", str(configuration)])
    assert "The node can run." in done.stdout
    assert all(len(line) <= 100 or "/" in line for line in done.stdout.splitlines()), (
        "paths stay whole"
    )
    assert done.stderr == ""
