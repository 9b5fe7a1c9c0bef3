"""Links and circuits change keys while iperf3 runs through them, and iperf3 does not notice.

Limits of time, bytes and packets are set so low that each is reached by a phase of its own.
alice's path goes over boot to the exit; who runs the kernel's IPsec shows its SPIs.
"""

import ipaddress
import json
import re

import pytest
from kernel_overlay import KernelOverlay, client

pytestmark = pytest.mark.kernel(time_limit_s=600)

LIMITS = """
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

ATTEMPTS = 3
"""A starved laboratory drops datagrams in sockets' buffers now and then. What a change of keys
loses is lost in every run, for each has several."""

UNNOTICED = [(0, 0), (0, 0)]

NAMES = ("boot-u", "exit-k", "alice-k")
"""The kernel is source and exit, and at one end of each link; the relay between is ours."""


class Chain(KernelOverlay):
    """alice, boot and exit with a path of two hops to bob."""

    def __init__(self, directory):
        super().__init__(directory, NAMES, settings=LIMITS)

    def __enter__(self):
        super().__enter__()
        try:
            with client(self.nodes["alice-k"]) as asked:
                asked.open_path(self.request(NAMES[:2], self.bob.ipv4.ip))
            self.bob.namespace.popen(["iperf3", "-s"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def iperf3(self, *options):
        command = ["iperf3", "-c", str(self.bob.ipv4.ip), "-J", *options]
        done = self.namespace("alice-k").run(command, timeout_s=120)
        return json.loads(done.stdout)

    def spis(self, *, links):
        """What was or is in use in any kernel: (host, destination, SPI) of its SAs."""
        found = set()
        for name in (name for name in NAMES if name.endswith("k")):
            listed = self.namespace(name).run(["ip", "xfrm", "state"]).stdout
            for destination, spi in re.findall(r"dst (\S+)\n\s+proto esp spi (\S+)", listed):
                if (ipaddress.ip_address(destination).version == 4) is links:
                    found.add((name, destination, spi))
        return found


@pytest.fixture(scope="module")
def chain(laboratory, tmp_path_factory):
    with Chain(tmp_path_factory.mktemp("rekey")) as made:
        yield made


@pytest.mark.parametrize("limit", PHASES)
def test_udp_loses_nothing_and_keeps_its_order_while_keys_change(chain, limit):
    outcomes = [outcome_of_a_run(chain, limit)]
    while outcomes[-1] != UNNOTICED and len(outcomes) < ATTEMPTS:
        outcomes.append(outcome_of_a_run(chain, limit))
    assert outcomes[-1] == UNNOTICED, outcomes
    assert chain.error_counters() == {}


def outcome_of_a_run(chain, limit):
    """Return (lost, out of order) of the stream in each direction."""
    before = [chain.spis(links=links) for links in (True, False)]
    report = chain.iperf3("-u", "--bidir", *PHASES[limit])
    after = [chain.spis(links=links) for links in (True, False)]
    assert all(new - old for new, old in zip(after, before, strict=True)), "link and circuit"
    streams = [each["udp"] for each in report["end"]["streams"]]
    assert [each["sender"] for each in streams] == [True, False], "one in each direction"
    assert all(stream["packets"] > 50 for stream in streams)
    return [(stream["lost_packets"], stream["out_of_order"]) for stream in streams]


def test_tcp_gets_through_whole_while_keys_change(chain):
    before = [chain.spis(links=links) for links in (True, False)]
    report = chain.iperf3("-b", "1M", "-t", "4")
    after = [chain.spis(links=links) for links in (True, False)]
    assert report["end"]["sum_received"]["bytes"] > 300_000
    assert all(new - old for new, old in zip(after, before, strict=True)), "link and circuit"
    assert chain.error_counters() == {}


def test_what_was_replaced_goes_after_its_time(chain):
    """Two generations in use and lingering, for each direction and hop, and no more."""
    for name, hops in (("alice-k", 2), ("exit-k", 1)):
        held = [each for each in chain.spis(links=False) if each[0] == name]
        assert len(held) <= 2 * hops * (2 + 2)
