"""Links and circuits change keys while iperf3 runs through them, and iperf3 does not notice.

Limits of time, bytes and packets are set so low that each is reached by a phase of its own.
alice's path goes over boot to the exit; who runs the kernel's IPsec shows its SPIs.
"""

import ipaddress
import json
import re

import pytest
from xfrm_circuits import error_counters

from lab.nodes import NodeProcess, wait_until
from lab.underlay import Underlay

pytestmark = pytest.mark.kernel(time_limit_s=600)

LIMITS = """
[ipsec]
backend = "{backend}"

[apm]
rekey_after_s = 4.0
rekey_after_bytes = 200000
rekey_after_packets = 250
rekey_spread_s = 0.5

[link]
rekey_after_s = 5.0
rekey_after_bytes = 300000
rekey_after_packets = 400
"""

PHASES = {
    "time": ["-b", "8K", "-l", "100", "-t", "7"],
    "packets": ["-b", "128K", "-l", "100", "-t", "5"],
    "bytes": ["-b", "800K", "-l", "1000", "-t", "5"],
}
"""10 packets a second reach no volume; 160 small ones reach packets first, 100 large ones bytes."""

BACKENDS = {"alice": "xfrm", "boot": "userspace", "exit": "xfrm"}
"""The kernel is source and exit, and at one end of each link; the relay between is ours."""


class Chain:
    """alice, boot and exit with a path of two hops to bob."""

    def __init__(self, directory):
        self.underlay = Underlay()
        self.nodes = {
            name: NodeProcess(
                self.underlay.add_host(name),
                directory / name,
                exits=name == "exit",
                settings=LIMITS.format(backend=BACKENDS[name]),
            )
            for name in ("boot", "exit", "alice")
        }
        self.bob = self.underlay.add_server("bob")

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        boot, alice = self.nodes["boot"], self.nodes["alice"]
        boot.start()
        wait_until("the bootstrap node's start", lambda: boot.answers, timeout_s=30)
        for name in ("exit", "alice"):
            self.nodes[name].start(boot)
        known = lambda: (alice.status() or {}).get("mix_nodes", 0) >= 2  # noqa: E731 - read at once
        wait_until("the topology table", known, timeout_s=60)
        hops = [self.nodes[name].overlay_address for name in ("boot", "exit")]
        alice.ask("path", "open", str(self.bob.ipv4.ip), "--hops", "2", "--via", *hops)
        self.bob.namespace.popen(["iperf3", "-s"])

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.stop()
        self.underlay.close()

    def iperf3(self, *options):
        command = ["iperf3", "-c", str(self.bob.ipv4.ip), "-J", *options]
        done = self.nodes["alice"].host.namespace.run(command, timeout_s=60)
        return json.loads(done.stdout)

    def spis(self, *, links):
        """What was or is in use in any kernel: (host, destination, SPI) of its SAs."""
        found = set()
        for name in (name for name, backend in BACKENDS.items() if backend == "xfrm"):
            listed = self.nodes[name].host.namespace.run(["ip", "xfrm", "state"]).stdout
            for destination, spi in re.findall(r"dst (\S+)\n\s+proto esp spi (\S+)", listed):
                if (ipaddress.ip_address(destination).version == 4) is links:
                    found.add((name, destination, spi))
        return found

    def errors(self):
        return {
            host.name: error_counters(host) for host in self.underlay.hosts if error_counters(host)
        }


@pytest.fixture(scope="module")
def chain(laboratory, tmp_path_factory):
    with Chain(tmp_path_factory.mktemp("rekey")) as made:
        yield made


@pytest.mark.parametrize("limit", PHASES)
def test_udp_loses_nothing_and_keeps_its_order_while_keys_change(chain, limit):
    before = [chain.spis(links=links) for links in (True, False)]
    report = chain.iperf3("-u", "--bidir", *PHASES[limit])
    after = [chain.spis(links=links) for links in (True, False)]
    streams = [each["udp"] for each in report["end"]["streams"]]
    assert [each["sender"] for each in streams] == [True, False], "one in each direction"
    for stream in streams:
        assert stream["packets"] > 50
        assert (stream["lost_packets"], stream["out_of_order"]) == (0, 0)
    assert all(new - old for new, old in zip(after, before, strict=True)), "link and circuit"
    assert chain.errors() == {}


def test_what_was_replaced_goes_after_its_time(chain):
    """Two generations in use and lingering, for each direction and hop, and no more."""
    for name, backend in BACKENDS.items():
        pairs = 2 if name == "alice" else 1
        if backend == "xfrm":
            held = [each for each in chain.spis(links=False) if each[0] == name]
            assert len(held) <= 2 * pairs * (2 + 2)
