"""Links and circuits change keys while iperf3 runs through them, and iperf3 does not notice.

Limits of time, bytes and packets are set so low that each is reached by a phase of its own.
alice's path goes over boot to the exit; who runs the kernel's IPsec shows its SPIs.
"""

import contextlib
import ipaddress
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel_overlay import KernelOverlay, client
from test_lab_standby import Conversation

from lab.nodes import wait_until
from overlay.control.service import OpenPathsRequest
from overlay.link.machine import MAX_OLD_PAIRS

pytestmark = pytest.mark.kernel(time_limit_s=600)

LIMITS = """
[apm]
keepalive_interval_s = 3.0
idle_expiry_s = 10.0
rekey_after_s = 4.0
rekey_after_bytes = 200000
rekey_after_packets = 120
rekey_spread_s = 0.5

[link]
rekey_after_s = 5.0
rekey_after_bytes = 300000
rekey_after_packets = 100
"""
IDLE_EXPIRY_S = 10.0

PHASES = {
    "time": ["-b", "8K", "-l", "100", "-t", "7"],
    "packets": ["-b", "256K", "-l", "100", "-t", "10"],
    "bytes": ["-b", "800K", "-l", "1000", "-t", "5"],
}
"""10 packets a second reach no volume; 320 small ones reach packets first, 100 large ones bytes.
The links change keys every second then, which they do no faster."""

BUFFER_BYTES = 4_000_000
"""Of each socket of iperf3: a laboratory that gets no time for seconds must not fill it."""

UNNOTICED = [(0, 0), (0, 0)]

NAMES = ("boot-u", "exit-k", "alice-k", "mix-k")
"""The kernel is source and exit, and at one end of each link; the relay between is ours. The other
relay is for a standby circuit."""

LONGEST_SILENCE_S = 10.0
"""Below a second elsewhere (test_lab_standby). This kernel stutters if the machine is busy, and a
path that is built anew has another inner address, so that the conversation would end."""


class Chain(KernelOverlay):
    """alice, boot and exit with a path of two hops to bob."""

    def __init__(self, directory):
        super().__init__(directory, NAMES, settings=LIMITS)

    def __enter__(self):
        super().__enter__()
        try:
            for name in ("rmem_max", "wmem_max"):
                Path("/proc/sys/net/core", name).write_text(f"{BUFFER_BYTES}\n")
            with client(self.nodes["alice-k"]) as asked:
                [self.opened] = asked.open_paths(self.request(NAMES[:2], self.bob.ipv4.ip))
            self.bob.namespace.popen(["iperf3", "-s"])
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def alice(self):
        return self.nodes["alice-k"]

    def named(self, overlay_address):
        """Return the name of the node that has an overlay address."""
        [found] = [
            name for name, node in self.nodes.items() if node.overlay_address == overlay_address
        ]
        return found

    def iperf3(self, *options):
        command = ["iperf3", "-c", str(self.bob.ipv4.ip), "-J", *options]
        done = self.namespace("alice-k").run(command, timeout_s=120)
        return json.loads(done.stdout)

    def drops(self):
        """What IPsec dropped, by host, as the nodes tell it."""
        found = {name: self.status(name).drops for name in NAMES}
        kept = {
            name: {k: n for k, n in each.items() if "Xfrm" in k} for name, each in found.items()
        }
        return {name: each for name, each in kept.items() if each}

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
    before = [chain.spis(links=links) for links in (True, False)]
    report = chain.iperf3("-u", "--bidir", "-w", str(BUFFER_BYTES), *PHASES[limit])
    after = [chain.spis(links=links) for links in (True, False)]
    assert all(new - old for new, old in zip(after, before, strict=True)), "link and circuit"
    streams = [each["udp"] for each in report["end"]["streams"]]
    assert [each["sender"] for each in streams] == [True, False], "one in each direction"
    assert all(stream["packets"] > 50 for stream in streams)
    outcomes = [(stream["lost_packets"], stream["out_of_order"]) for stream in streams]
    assert outcomes == UNNOTICED, chain.drops()
    assert chain.error_counters() == chain.drops() == {}


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
        wait_until(
            "the end of what was replaced to send",
            lambda n=name: sends_on(chain, n) == 1,
            timeout_s=20,
        )
        received = [each for each in of_links(chain, name) if each[1] == address(chain, name)]
        assert 1 <= len(received) <= 2 + MAX_OLD_PAIRS


def of_links(chain, name):
    return [each for each in chain.spis(links=True) if each[0] == name]


def address(chain, name):
    return str(chain.nodes[name].host.ipv4.ip)


def sends_on(chain, name):
    """How many SAs a host has to send on over its one link."""
    return sum(destination != address(chain, name) for _, destination, _ in of_links(chain, name))


def test_a_circuit_in_use_outlives_the_time_after_which_hops_forget_idle_ones(chain):
    with client(chain.nodes["alice-k"]) as asked:
        [path] = asked.paths()
    assert path.inner_addresses == chain.opened.inner_addresses, "it was not rebuilt"
    assert path.age_s > 2 * IDLE_EXPIRY_S
    assert chain.status("exit-k").circuits_exit == 1


DRAINING_S = 3.0
"""More than the two seconds in which the SAs of a circuit that ended linger."""

RULES = "ip rule; ip -6 rule; " + " ".join(
    f"{program} -t {table} -S;"
    for program in ("iptables-legacy", "ip6tables-legacy")
    for table in ("mangle", "nat", "filter", "raw")
)


def test_a_conversation_outlives_its_relay_and_the_exits_death_is_told(chain):
    """Source and exit are on the kernel backend; one of the two relays is, whichever is killed.

    This kernel cannot abort sockets (it lacks CONFIG_INET_DIAG_DESTROY), so the log names that.
    """
    target = chain.bob.ipv6.ip
    with contextlib.ExitStack() as opened:
        with client(chain.alice) as asked:
            asked.close_path(None)
            request = OpenPathsRequest((ipaddress.ip_network(target),), 2, "uniform", ())
            [before] = asked.open_paths(request)
        relay = chain.named(before.hops[0].overlay_address)
        talk = Conversation(chain, str(target), opened)
        wait_until(
            "the standby circuit", lambda: path_to(chain, target).standby_ready, timeout_s=60
        )
        looked = seen(chain)
        talk.longest_silence_s()
        chain.nodes[relay].kill()
        wait_until("the takeover", lambda: path_to(chain, target).takeovers == 1, timeout_s=60)
        wait_until("the end of the relay's links", lambda: not linked(chain, relay), timeout_s=90)
        time.sleep(DRAINING_S)
        assert (talk.error, talk.longest_silence_s() < LONGEST_SILENCE_S) == (None, True)
        assert path_to(chain, target).inner_addresses == before.inner_addresses
        check_no_traces(looked, seen(chain))
        chain.nodes["exit-k"].kill()
        chain.namespace("exit-k").configure(["link set eth0 down"])
        wait_until(
            "the loss of the exit",
            lambda: path_to(chain, target).state == "rebuilding",
            timeout_s=60,
        )
        assert "kill_switch.connections_not_aborted" in chain.alice.log.read_text()
    held = chain.namespace("alice-k").run(["ip", "-br", "address"]).stdout
    assert not [each for each in before.inner_addresses if each in held]


def path_to(chain, target):
    with client(chain.alice) as asked:
        [path] = [each for each in asked.paths() if each.destination.startswith(str(target))]
    return path


def linked(chain, name):
    """Tell whether alice or the exit has SAs with a node."""
    address = str(chain.nodes[name].host.ipv4.ip)
    ends = ("alice-k", "exit-k")
    return any(h in ends and to == address for h, to, _ in chain.spis(links=True))


@dataclass
class Seen:
    """What one host holds: addresses of its device, IPsec, and what does not depend on circuits."""

    addresses: set
    ipsec: str
    lasting: str


def seen(chain):
    return {name: seen_at(chain.namespace(name)) for name in ("alice-k", "exit-k")}


def seen_at(host):
    addresses, ipsec, lasting = (
        host.run(["sh", "-c", command]).stdout
        for command in ("ip -6 -br address", "ip xfrm state; ip xfrm policy", RULES)
    )
    return Seen(set(re.findall(r"(fd\S+)/128", addresses)), ipsec, lasting)


def check_no_traces(before, after):
    """Nothing of the circuit that ended may be left at the source or at the exit."""
    gone = before["alice-k"].addresses - after["alice-k"].addresses
    assert len(gone) >= 2, "one for each hop"
    for name, now in after.items():
        assert not [each for each in gone if each in now.ipsec], name
        assert now.lasting == before[name].lasting, name
