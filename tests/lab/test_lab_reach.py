"""Nodes behind a router at home: other nodes test whether they are reached.

::

    boot, one, two, exit ── core ── home ─┬─ first  192.168.7.2, fd00:5:7::2
                                          └─ second 192.168.7.3

The router masquerades IPv4, and accepts IPv6 from outside only as an answer. Both inner nodes
advertise the router's IPv4 address; it forwards no port at first. ``first`` also has an IPv6
address of its own.
"""

import ipaddress
import json

import pytest
from asking import asked, status

from lab.namespaces import Namespace
from lab.nodes import PORT, NodeProcess, wait_until
from lab.underlay import LaboratoryHost, Underlay

OUTSIDE = ("boot", "one", "two", "exit")
INSIDE = {"first": 2, "second": 3}
SETTINGS = """
[selection]
hops = 2
"""


class HomeOverlay:
    """Four nodes outside, and two behind the router ``home``."""

    def __init__(self, directory):
        self.underlay = Underlay()
        self.home, self.inner = None, []
        try:
            self.nodes = {
                name: NodeProcess(
                    self.underlay.add_host(name),
                    directory / name,
                    exits=name == "exit",
                    settings=SETTINGS,
                    listen=(f"0.0.0.0:{PORT}", f"[::]:{PORT}"),
                )
                for name in OUTSIDE
            }
            self.home = self.underlay.add_host("home")
            self._masquerade()
            for name, number in INSIDE.items():
                self.nodes[name] = self._inner_node(name, number, directory / name)
        except BaseException:
            self.__exit__()
            raise

    def __getitem__(self, name):
        return self.nodes[name]

    def _masquerade(self):
        space = self.home.namespace
        space.set_kernel(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        to_home = f"via {self.home.ipv6.ip} dev {self.home.core_interface}"
        self.underlay.core.configure([f"route add {LAN6} {to_home}"])
        space.configure(
            [
                "link add lan type bridge",
                "address add 192.168.7.1/24 dev lan",
                f"address add {LAN6[1]}/64 dev lan nodad",
                "link set lan up",
            ]
        )
        space.run(["nft", MASQUERADE])

    def _inner_node(self, name, number, directory):
        space = Namespace(name)
        self.inner.append(space)
        peer = f"peer name eth0 netns {space.pid}"
        self.home.namespace.configure(
            [
                f"link add in{number} type veth {peer}",
                f"link set in{number} master lan up",
            ]
        )
        address = ipaddress.IPv4Interface(f"192.168.7.{number}/24")
        space.configure(
            [
                f"address add {address} dev eth0",
                "link set eth0 up",
                "route add default via 192.168.7.1",
            ]
        )
        ipv6 = ipaddress.IPv6Interface((LAN6[number], 64))
        listen, advertised = [f"0.0.0.0:{port(number)}"], [f"{self.home.ipv4.ip}:{port(number)}"]
        if name == "first":
            space.configure(
                [
                    f"address add {ipv6} dev eth0 nodad",
                    f"route add default via {LAN6[1]}",
                ]
            )
            listen.append(f"[::]:{port(number)}")
            advertised.append(f"[{ipv6.ip}]:{port(number)}")
        host = LaboratoryHost(
            name, space, self.home.namespace, address, ipv6, "eth0", f"in{number}"
        )
        node = NodeProcess(host, directory, settings=SETTINGS, listen=listen)
        added = f"[network]\nadvertise = {json.dumps(advertised)}\nreachability_test_s = 5"
        written = node.configuration.read_text()
        node.configuration.write_text(written.replace("[network]", added))
        return node

    def forward(self, name):
        number = INSIDE[name]
        rule = f"udp dport {port(number)} dnat to 192.168.7.{number}:{port(number)}"
        self.home.namespace.run(["nft", f"add rule ip home inwards iifname eth0 {rule}"])

    def permit_ipv6(self, name):
        rule = f"udp dport {port(INSIDE[name])} accept"
        self.home.namespace.run(["nft", f"insert rule ip6 home forwards {rule}"])

    def __enter__(self):
        try:
            boot = self["boot"]
            boot.start()
            wait_until("the bootstrap node's start", lambda: boot.answers, timeout_s=60)
            for name, node in self.nodes.items():
                if name != "boot":
                    node.start(boot)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in getattr(self, "nodes", {}).values():
            node.stop()
        for space in self.inner:
            space.close()
        self.underlay.close()


LAN6 = ipaddress.IPv6Network("fd00:5:7::/64")

MASQUERADE = """
table ip6 home {
  chain forwards {
    type filter hook forward priority 0;
    iifname "eth0" ct state != { established, related } drop
  }
}
table ip home {
  chain inwards { type nat hook prerouting priority -100; }
  chain outwards { type nat hook postrouting priority 100; oifname "eth0" masquerade; }
}
"""


def port(number):
    return PORT + number


@pytest.fixture(scope="module")
def overlay(laboratory, tmp_path_factory):
    with HomeOverlay(tmp_path_factory.mktemp("home")) as made:
        yield made


def found(node, version=4):
    """What the tests have shown of a node's endpoint of an IP version."""
    told = getattr(status(node), "reachability", {})
    return next((each for at, each in told.items() if at.startswith("[") is (version == 6)), "")


def roles_known(asking, node):
    """The roles of a node as another one knows them; None if it does not know the node."""
    known = {each.overlay_address: each.roles for each in asked(asking, "peers") or ()}
    return known.get(node.overlay_address)


def test_a_node_that_no_port_leads_to_offers_no_role_until_one_does(overlay):
    first, boot = overlay["first"], overlay["boot"]
    refused = lambda: {found(first), found(first, 6)} == {"not reachable"}  # noqa: E731 - short
    wait_until("the tests' results", refused, timeout_s=60)
    now = status(first)
    assert now.roles == ()
    assert "do not reach this node at" in now.verdict
    assert f"forward UDP port {port(2)} (IPv4) to this node at the router" in now.verdict
    wait_until("others learning of it", lambda: roles_known(boot, first) == (), timeout_s=60)
    assert now.joined, "it goes on as a client"
    assert now.mix_nodes >= len(OUTSIDE) - 1
    assert f"permit UDP port {port(2)} (IPv6) to this node in the router's" in now.verdict
    one, other = (line for line in first.log.read_text().splitlines() if "not_reached" in line)
    assert {4, 6} == {int(each.partition("version=")[2][0]) for each in (one, other)}
    assert "offers_roles=False" in other
    overlay.forward("first")
    wait_until("the next test", lambda: found(first) == "reachable", timeout_s=60)
    assert status(first).roles == ("relay",)
    wait_until("the role known", lambda: roles_known(boot, first) == ("relay",), timeout_s=60)
    assert any("(IPv6)" in problem for problem in status(first).network_problems)
    overlay.permit_ipv6("first")
    wait_until("the test over IPv6", lambda: found(first, 6) == "reachable", timeout_s=60)
    assert status(first).network_problems == ()
    for name in OUTSIDE:
        assert (found(overlay[name]), found(overlay[name], 6)) == ("reachable", "reachable")


def test_two_nodes_behind_one_router_reach_each_other_at_their_local_addresses(overlay):
    first, second, exit_node = overlay["first"], overlay["second"], overlay["exit"]
    overlay.forward("second")
    wait_until("the second's role", lambda: roles_known(first, second) == ("relay",), timeout_s=60)
    wait_until("the meeting", lambda: "nat.neighbour_found" in first.log.read_text(), timeout_s=60)
    via = f"{second.overlay_address},{exit_node.overlay_address}"
    path = first.ask("path", "open", "203.0.113.9", "--via", via)
    assert path["state"] == "open"
    known = {each.overlay_address: each for each in asked(first, "peers")}
    assert known[second.overlay_address].linked
    for asking in overlay.nodes.values():
        for each in asked(asking, "peers"):
            assert not any("192.168." in endpoint for endpoint in each.endpoints)
