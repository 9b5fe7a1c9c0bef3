"""Nodes in the networks that people have: one IP version, addresses that change, no bootstrap.

One overlay for all checks, because most of the time is its start. Its relays listen on both
wildcards, as the default is. ``four`` and ``six`` are hosts with one IP version.
"""

import itertools
import json
import sys

import pytest
from asking import asked, status

from lab.namespaces import LabError
from lab.nodes import PORT, NodeProcess, wait_until
from lab.underlay import Underlay
from lab.webserver import WebServer

WILDCARDS = (f"0.0.0.0:{PORT}", f"[::]:{PORT}")
DESTINATIONS = itertools.count(100)
RELAYS = ("boot", "mix", "exit")
SETTINGS = """
[selection]
hops = 2

[link]
handshake_timeout_s = 5.0
"""


class MixedOverlay:
    """boot, mix and exit have both IP versions, four and six one each; bob serves outside."""

    def __init__(self, directory):
        self.underlay = Underlay()
        self.nodes = {}
        for name in (*RELAYS, "four", "six"):
            host = self.underlay.add_host(name)
            clock = directory / f"{name}.clock"
            clock.write_text("0")
            runner = [sys.executable, "-m", "lab.skewed", str(clock)]
            self.nodes[name] = NodeProcess(
                host,
                directory / name,
                exits=name == "exit",
                listen=WILDCARDS,
                settings=SETTINGS,
                **({"runner": runner} if name == "six" else {}),
            )
        self.clock = directory / "six.clock"
        leave_one_version(self["four"].host, 4)
        leave_one_version(self["six"].host, 6)
        self.bob = self.underlay.add_server("bob")
        self.web = WebServer(self.bob, directory / "bob")

    def __getitem__(self, name):
        return self.nodes[name]

    def __enter__(self):
        try:
            self.web.__enter__()
            self.web.publish("small", b"small")
            boot = self["boot"]
            boot.start()
            wait_until("the bootstrap node's start", lambda: boot.answers, timeout_s=60)
            for name, node in self.nodes.items():
                if node is not boot:
                    node.start(endpoint(boot.host, 6 if name == "six" else 4))
            wait_until(
                "the start of all",
                lambda: all(n.answers for n in self.nodes.values()),
                timeout_s=60,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.stop()
        self.underlay.close()

    def fetch(self, node):
        url = f"http://{self.web.address}/small"
        command = ["curl", "-sS", "--fail", "-m", "20", url]
        return node.host.namespace.run(command, check=False).stdout


def leave_one_version(host, version):
    other = "-6" if version == 4 else "-4"
    host.namespace.run(["ip", other, "address", "flush", "dev", host.interface])


def endpoint(host, version):
    return f"[{host.ipv6.ip}]:{PORT}" if version == 6 else f"{host.ipv4.ip}:{PORT}"


@pytest.fixture(scope="module")
def overlay(laboratory, tmp_path_factory):
    with MixedOverlay(tmp_path_factory.mktemp("mixed")) as made:
        yield made


def joined(node):
    return getattr(status(node), "joined", False)


def peers(node):
    return {each.overlay_address: each.endpoints for each in asked(node, "peers") or ()}


def told(node):
    return sorted(getattr(status(node), "endpoints", ()))


def wait_known(asking, node, endpoints):
    wait_until(
        f"{asking.host.name} knowing where {node.host.name} is",
        lambda: sorted(peers(asking).get(node.overlay_address, ())) == sorted(endpoints),
        timeout_s=60,
    )


def open_through(overlay, node, mix):
    """Open a path over one mix to a destination that had none, and close it."""
    via = f"{mix.overlay_address},{overlay['exit'].overlay_address}"
    path = node.ask("path", "open", f"203.0.113.{next(DESTINATIONS)}", "--via", via)
    assert path["state"] == "open"
    node.ask("path", "close", str(path["number"]))


def test_hosts_of_either_version_use_relays_that_have_both(overlay):
    for name in RELAYS:
        both = sorted(endpoint(overlay[name].host, version) for version in (4, 6))
        assert told(overlay[name]) == both
        for asking in ("four", "six"):
            wait_known(overlay[asking], overlay[name], both)
    for asking, version in (("four", 4), ("six", 6)):
        node = overlay[asking]
        assert told(node) == [endpoint(node.host, version)]
        path = node.ask("path", "open", overlay.web.address, "--hops", "2")
        assert path["state"] == "open"
        assert overlay.fetch(node) == "small"
    # A relay with IPv4 alone and one with IPv6 alone cannot follow each other on a path.
    wait_known(overlay["mix"], overlay["four"], [endpoint(overlay["four"].host, 4)])
    wait_known(overlay["four"], overlay["six"], [endpoint(overlay["six"].host, 6)])
    six, exit_node = (overlay[each].overlay_address for each in ("six", "exit"))
    via = ("--via", f"{six},{exit_node}")
    with pytest.raises(
        LabError, match="hop 1 is not reachable over IPv4, which is all that this host has"
    ):
        overlay["four"].ask("path", "open", "203.0.113.77", "--hops", "2", *via)


def test_a_node_with_a_wildcard_returns_without_a_bootstrap_node(overlay):
    for name in ("four", "mix"):
        overlay[name].stop()
        overlay[name].start()
    wait_until("the return", lambda: joined(overlay["four"]), timeout_s=60)
    wait_until("its path", lambda: overlay.fetch(overlay["four"]) == "small", timeout_s=60)
    wait_until("publication", lambda: len(told(overlay["mix"])) == 2, timeout_s=60)


def test_a_relay_whose_addresses_change_is_found_at_the_new_ones(overlay):
    mix, four, six = overlay["mix"], overlay["four"], overlay["six"]
    new = readdressed(mix.host, 99)
    for asking in (four, six):
        wait_known(asking, mix, new)
        open_through(overlay, asking, mix)


def test_answers_leave_from_the_address_that_was_asked(overlay):
    mix = overlay["mix"]
    mix.stop()
    first4, first6 = readdressed(mix.host, 97)
    second = [each.network.network_address + 96 for each in (mix.host.ipv4, mix.host.ipv6)]
    for address, length in zip(second, (16, 32), strict=True):
        options = ["nodad"] * (length == 32)
        device = ["dev", mix.host.interface]
        mix.host.namespace.run(["ip", "address", "add", f"{address}/{length}", *device, *options])
    advertised = [f"{second[0]}:{PORT}", f"[{second[1]}]:{PORT}"]
    written = mix.configuration.read_text()
    mix.configuration.write_text(
        written.replace("[network]", f"[network]\nadvertise = {json.dumps(advertised)}")
    )
    mix.start()
    for asking, route in (("four", first4), ("six", first6)):
        node = overlay[asking]
        wait_known(node, mix, advertised)
        open_through(overlay, node, mix)
        # A node that knows the other address alone is answered from there.
        node.stop()
        (node.directory / "topology.sqlite").unlink()
        node.start(route)
        wait_until("the answer", lambda node=node: joined(node), timeout_s=60)
    mix.stop()
    mix.configuration.write_text(written)
    mix.start()


def test_a_start_before_the_network_is_there_waits_for_it(overlay):
    mix, boot = overlay["mix"], overlay["boot"]
    mix.stop()
    mix.host.namespace.run(["ip", "link", "set", mix.host.interface, "down"])
    mix.start()
    wait_until("the start without a network", lambda: status(mix) is not None, timeout_s=60)
    now = status(mix)
    assert (now.endpoints, now.roles, now.joined) == ((), (), False)
    assert "waits for one" in now.network_problems[0]
    mix.host.namespace.run(["ip", "link", "set", mix.host.interface, "up"])
    wait_known(boot, mix, readdressed(mix.host, 98))
    assert status(mix).network_problems == ()


def test_a_clock_that_is_set_is_followed_and_a_wrong_one_is_told(overlay):
    six = overlay["six"]

    def problem():
        return " ".join(getattr(status(six), "network_problems", ()))

    for offset_s, said in ((-60 * 86_400, "60 days behind"), (86_400, "24 hours ahead")):
        set_clock(overlay.clock, offset_s)
        wait_until("the word on the clock", lambda said=said: said in problem(), timeout_s=60)
        assert status(six).mix_nodes == 0
    # Others accept what a clock signs that is ahead by less than 10 minutes, and remember it.
    set_clock(overlay.clock, 480)
    wait_until("the word on the clock", lambda: "8 minutes ahead" in problem(), timeout_s=60)
    wait_until("the path meanwhile", lambda: overlay.fetch(six) == "small", timeout_s=60)
    set_clock(overlay.clock, 0)
    wait_until("the right time", lambda: joined(six) and not problem(), timeout_s=60)
    for asking, known in (("six", "exit"), ("boot", "six")):
        found = lambda a=asking, k=known: overlay[k].overlay_address in peers(overlay[a])  # noqa: E731
        wait_until(f"{asking} knowing {known}", found, timeout_s=100)
    assert problem() == ""
    wait_until("the path of before", lambda: overlay.fetch(six) == "small", timeout_s=60)


def test_a_bootstrap_node_with_a_new_key_finds_the_overlay_again(overlay):
    boot, exit_node = overlay["boot"], overlay["exit"]
    boot.kill()
    (boot.directory / "identity.key").unlink()
    (boot.directory / "topology.sqlite").unlink()
    written = boot.configuration.read_text()
    made = json.loads(boot.cli("init", "--dir", str(boot.directory), "--force", "--json"))
    boot.configuration.write_text(written)
    assert made["new_keys"]
    boot.start()
    found = lambda: exit_node.overlay_address in peers(boot)  # noqa: E731 - read at once
    wait_until("the new node's start", lambda: status(boot) is not None, timeout_s=60)
    wait_until("the overlay found again", found, timeout_s=100)
    known = lambda: made["overlay_address"] in peers(exit_node)  # noqa: E731 - read at once
    wait_until("the new node being known", known, timeout_s=60)


def set_clock(file, offset_s):
    written = file.with_suffix(".new")
    written.write_text(str(offset_s))
    written.replace(file)


def readdressed(host, number):
    """Replace both addresses of a host; return the endpoints that its node should have now."""
    router4, router6 = (each.network.network_address + 1 for each in (host.ipv4, host.ipv6))
    new4, new6 = (each.network.network_address + number for each in (host.ipv4, host.ipv6))
    for each in ("-4", "-6"):
        host.namespace.run(
            ["ip", each, "address", "flush", "dev", host.interface, "scope", "global"]
        )
    host.namespace.configure(
        [
            f"address add {new4}/16 dev {host.interface}",
            f"address add {new6}/32 dev {host.interface} nodad",
            f"route replace default via {router4}",
            f"route replace default via {router6}",
        ]
    )
    return [f"{new4}:{PORT}", f"[{new6}]:{PORT}"]
