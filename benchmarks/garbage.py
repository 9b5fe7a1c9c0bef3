"""Measure the rate of a circuit while one of its relays receives invalid datagrams, and their cost.

Run ``python benchmarks/garbage.py [--json] [--rates N ...] [--kinds WORD ...] [--rounds N]``. Real
nodes (source, relay, exit) run in separate namespaces. The circuit carries one TCP stream all the
time. An attacker sends datagrams of one kind at a time from forged addresses to the relay's UDP
port. Each interval with such datagrams is between two without, and its rate is divided by their
mean.

Each round measures every kind at every rate once, in another order. A cell of the table is the
median of all rounds, with the lowest and the highest value in brackets.

The sender uses the same processors, so its own cost and the kernel's delivery also slow down the
circuit. So the table begins with the remaining rate if the datagrams go to another host, at which a
socket is bound and never read. The second percentage of a kind is its fraction of that rate.

Then the stream ends, and the processor time of the idle relay's process per datagram is measured.
Keep the host idle. The benchmark takes less than eight minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # lab is part of the checkout, not of what is installed

from lab.flood import pack_payloads  # noqa: E402 - after the path
from lab.garbage import garbage_kinds  # noqa: E402
from lab.namespaces import isolation_command, missing_requirements  # noqa: E402
from lab.nodes import PORT, NodeProcess, wait_until  # noqa: E402
from lab.reading import UDP  # noqa: E402
from lab.underlay import LaboratoryHost, Underlay  # noqa: E402
from overlay.addresses import Endpoint  # noqa: E402
from overlay.keyfile import read_identity  # noqa: E402

RATES = (20_000, 50_000)
ROUNDS = 5
COST_RATE, COST_S = 20_000, 1.0
SETTLE_S, MEASURE_S = 0.3, 0.6
WARM_UP_S = 4.0
INSIDE = "--inside"
NETWORK_ID = "laboratory"
KNOWN_SPI = "ESP, known SPI, wrong ICV"
FROM_PEER = "ESP, known SPI, wrong ICV, peer's address"
FAR = "ESP, known SPI, number far ahead, peer's address"
NEAR = "ESP, known SPI, number just ahead, peer's address"
ELSEWHERE = {"to another host, 128 bytes": 128, "to another host, 1,400 bytes": 1400}
LARGE_BYTES = 1000
"""Payloads above this are compared with large ones to another host."""
FAR_AHEAD = range(2**18, 2**19)
"""Distance of these numbers from the highest authentic one, far beyond every replay window."""
NEAR_NUMBERS = 2**12
NEAR_AHEAD_S = 1.4
"""Time in seconds for the start of the attacker's program and the interval. The numbers just ahead
are those that the link reaches after this time, so that none is refused as old."""
PACKET_BYTES = 1300
"""Approximate size of the stream's packets."""
COST = "CPU of the relay, µs per datagram"


class Scene:
    """The hosts: alice, one relay, one exit, bob as the receiver, and an attacker."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.underlay = stack.enter_context(Underlay())
        self.relay = self._node(stack, directory, "relay")
        self.exit = self._node(stack, directory, "exit", exits=True)
        self.alice = self._node(stack, directory, "alice")
        self.bob = self.underlay.add_server("bob")
        self.attacker = self.underlay.add_host("attacker")
        self.elsewhere = self._unread_socket(stack)
        self.kinds: dict[str, list[bytes]] = {}
        self.packets_per_s = 0.0
        self._let_forged_packets_pass()
        self._start()

    def _node(
        self, stack: ExitStack, directory: Path, name: str, *, exits: bool = False
    ) -> NodeProcess:
        node = NodeProcess(self.underlay.add_host(name), directory / name, exits=exits)
        stack.callback(node.stop)
        return node

    def _unread_socket(self, stack: ExitStack) -> LaboratoryHost:
        """Start a host with a socket on the same port that is never read."""
        host = self.underlay.add_host("elsewhere")
        bind = f"import socket,time; s = socket.socket(2, 2); s.bind(('', {PORT})); time.sleep(1e6)"
        program = host.namespace.popen([sys.executable, "-c", bind])
        stack.callback(program.wait)
        stack.callback(program.kill)
        return host

    def _let_forged_packets_pass(self) -> None:
        """Add routes to the forged sources, so that no filter drops answers to them."""
        gateway = self.attacker
        self.underlay.core.configure(
            [
                f"route add 198.18.0.0/15 via {gateway.ipv4.ip}",
                f"route add 2001:2::/48 via {gateway.ipv6.ip}",
            ]
        )
        self.attacker.namespace.set_kernel(ipv4__ip_forward=0)

    def _start(self) -> None:
        self.relay.start()
        wait_until("the relay's start", lambda: self.relay.answers, timeout_s=60)
        for node in (self.exit, self.alice):
            node.start(self.relay)
        known = lambda: (self.alice.status() or {}).get("mix_nodes", 0) >= 2  # noqa: E731
        wait_until("the topology table", known, timeout_s=120)
        via = f"{self.relay.overlay_address},{self.exit.overlay_address}"
        self.alice.ask("path", "open", str(self.bob.ipv4.ip), "--hops", "2", "--via", via)

    def prepare_kinds(self, words: Sequence[str]) -> None:
        """Prepare the datagrams of the kinds whose name contains one of these words."""
        target = read_identity(self.relay.directory / "identity.key")
        endpoint = Endpoint(self.relay.address, PORT)
        stream = Stream(self)
        time.sleep(1.0)
        self._header = self._link_header()
        made = garbage_kinds(target, NETWORK_ID, endpoint, self._header[:4])
        stream.end()
        made[FROM_PEER] = made[FAR] = made[NEAR] = made[KNOWN_SPI]
        self.kinds = {k: v for k, v in made.items() if any(word in k for word in words)}

    def payloads(self, kind: str) -> list[bytes]:
        """Return the payloads of one kind, with sequence numbers that fit this moment."""
        if kind in ELSEWHERE:
            return [bytes(ELSEWHERE[kind])]
        if kind not in (FAR, NEAR):
            return self.kinds[kind]
        self._header = self._link_header() or self._header
        highest = int.from_bytes(self._header[4:8], "big")
        soon = int(self.packets_per_s * NEAR_AHEAD_S)
        ahead = FAR_AHEAD if kind == FAR else range(soon, soon + NEAR_NUMBERS)
        rng = random.Random(1)
        return [
            each[:4] + ((highest + rng.choice(ahead)) % 2**32).to_bytes(4, "big") + each[8:]
            for each in self.kinds[kind]
        ]

    def _link_header(self) -> bytes:
        """Capture SPI and number of alice's link at the relay's cable; b"" if it is idle."""
        path = self.alice.directory / "cable.pcap"
        with self.relay.host.capture(path) as capture:
            time.sleep(0.3)
        for packet in capture.packets():
            control = packet.payload.startswith(bytes(4))
            if packet.source == self.alice.address and packet.protocol == UDP and not control:
                return packet.payload[:8]
        return b""


class Stream:
    """One TCP stream from alice to bob, and its rate."""

    def __init__(self, scene: Scene) -> None:
        self._bob = scene.bob
        self._server = scene.bob.namespace.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        self._client = scene.alice.host.namespace.popen(
            ["iperf3", "-c", str(scene.bob.ipv4.ip), "-t", "36000"], stdout=subprocess.DEVNULL
        )

    def end(self) -> None:
        """End the stream."""
        self._client.kill()
        self._client.wait()
        self._server.kill()
        self._server.wait()

    @property
    def alive(self) -> bool:
        """Whether the sending program still runs."""
        return self._client.poll() is None

    def rate_mbit_s(self) -> float:
        """Return the rate at bob during one interval."""
        begun, before = time.monotonic(), received_bytes(self._bob)
        time.sleep(MEASURE_S)
        return (received_bytes(self._bob) - before) * 8e-6 / (time.monotonic() - begun)


def received_bytes(host: LaboratoryHost) -> int:
    """Return the number of bytes that a host's interface has received."""
    for line in Path(f"/proc/{host.namespace.pid}/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == host.interface:
            return int(counts.split()[0])
    raise SystemExit(f"garbage: {host.name} has no interface.")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, user and system, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Flood:
    """The attacker's program for one interval; it sends from the construction of this object on."""

    def __init__(self, scene: Scene, kind: str, rate: int, seconds: float) -> None:
        target = str(scene.elsewhere.ipv4.ip) if kind in ELSEWHERE else scene.relay.address
        command = [sys.executable, "-m", "lab.flood", target, str(PORT)]
        command += [str(rate), str(seconds)]
        payloads = pack_payloads(scene.payloads(kind))
        if kind in (FROM_PEER, FAR, NEAR):
            command += [scene.alice.address, str(PORT)]
        self._program = scene.attacker.namespace.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._program.stdin is not None:
            self._program.stdin.write(payloads)
            self._program.stdin.close()
        if self._program.stdout is None or self._program.stdout.readline() != b"begun\n":
            raise SystemExit("garbage: the attacker's program did not start.")

    def result(self) -> dict[str, float]:
        """Wait for its end and return its report."""
        output = self._program.stdout.read() if self._program.stdout else b""
        self._program.wait()
        result: dict[str, float] = json.loads(output)
        return result


@dataclass
class Figures:
    """The measured values; rates in Mbit/s, by kind and datagrams per second."""

    kept: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    cost_us: dict[str, float] = field(default_factory=dict)
    quiet: list[float] = field(default_factory=list)
    sent: dict[int, list[float]] = field(default_factory=dict)
    sender_cpu: dict[int, list[float]] = field(default_factory=dict)


def measure_rates(scene: Scene, rates: Sequence[int], rounds: int, figures: Figures) -> None:
    """Measure the stream's rate under each flood."""
    stream = Stream(scene)
    time.sleep(WARM_UP_S)
    figures.quiet.append(stream.rate_mbit_s())
    order = random.Random(1)
    for number in range(1, rounds + 1):
        cells = list(itertools.product((*ELSEWHERE, *scene.kinds), rates))
        order.shuffle(cells)
        for kind, rate in cells:
            measure_rate(scene, stream, kind, rate, figures)
            kept = figures.kept[kind, rate][-1]
            print(f"garbage: round {number}, {kind}, {rate}: {kept:.0%}", file=sys.stderr)
    if not stream.alive:
        raise SystemExit("garbage: the stream broke.")
    stream.end()


def measure_rate(scene: Scene, stream: Stream, kind: str, rate: int, figures: Figures) -> None:
    """Measure one interval with invalid datagrams and the interval without them that follows."""
    scene.packets_per_s = figures.quiet[-1] * 1e6 / 8 / PACKET_BYTES
    flood = Flood(scene, kind, rate, SETTLE_S + MEASURE_S)
    time.sleep(SETTLE_S)
    disturbed = stream.rate_mbit_s()
    done = flood.result()
    time.sleep(SETTLE_S)
    figures.quiet.append(stream.rate_mbit_s())
    kept = disturbed / statistics.mean(figures.quiet[-2:])
    figures.kept.setdefault((kind, rate), []).append(kept)
    figures.sent.setdefault(rate, []).append(done["sent"] / done["seconds"])
    figures.sender_cpu.setdefault(rate, []).append(done["cpu_s"] / done["seconds"])


def cpu_during(scene: Scene, seconds: float) -> float:
    """Return the processor time of the relay in an interval."""
    before = cpu_s(scene.relay.pid)
    time.sleep(seconds)
    return cpu_s(scene.relay.pid) - before


def measure_costs(scene: Scene, figures: Figures) -> None:
    """Measure the processor time of the idle relay for one datagram of each kind."""
    time.sleep(1.0)
    seconds = COST_S + 0.2
    idle = statistics.median(cpu_during(scene, 1.0) for _ in range(5)) * seconds
    for kind in scene.kinds:
        flood = Flood(scene, kind, COST_RATE, COST_S)
        busy = cpu_during(scene, seconds)
        figures.cost_us[kind] = (busy - idle) / flood.result()["sent"] * 1e6


def rows(scene: Scene, rates: Sequence[int], figures: Figures) -> list[dict[str, object]]:
    """Return the table, with one row for each kind."""
    made: list[dict[str, object]] = []
    small, large = ELSEWHERE
    for kind in (*ELSEWHERE, *scene.kinds):
        row: dict[str, object] = {"kind": kind}
        sizes = map(len, scene.kinds.get(kind, ()))
        same = large if max(sizes, default=0) > LARGE_BYTES else small
        for rate in rates:
            if (kind, rate) in figures.kept:
                kept = figures.kept[kind, rate]
                median = statistics.median(kept)
                row[f"{rate:,}/s"] = f"{median:.0%} ({min(kept):.0%} to {max(kept):.0%})"
                elsewhere = statistics.median(figures.kept[same, rate])
                share = "" if kind in ELSEWHERE else f"{median / elsewhere:.0%}"
                row[f"{rate:,}/s, of that elsewhere"] = share
        row[COST] = round(figures.cost_us[kind], 1) if kind in figures.cost_us else ""
        if len(row) > 2 or kind in figures.cost_us:
            made.append(row)
    return made


def markdown(table: Sequence[dict[str, object]], figures: Figures) -> str:
    """Return the table and its explanation for docs/results/garbage.md."""
    columns = list(table[0])
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in table]
    if len(figures.quiet) > 1:
        noise = [abs(b / a - 1) for a, b in itertools.pairwise(figures.quiet)]
        lines += [
            "",
            f"Undisturbed: {statistics.median(figures.quiet):.0f} Mbit/s in the median; two quiet "
            f"intervals in a row differ by {statistics.median(noise):.0%} in the median.",
        ]
    for rate, sent in figures.sent.items():
        share = statistics.median(figures.sender_cpu[rate])
        lines.append(
            f"At {rate:,}/s the attacker sent {min(sent):,.0f} to {max(sent):,.0f} datagrams a "
            f"second and took {share:.0%} of one processor."
        )
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overlay-")))
        scene = Scene(stack, directory)
        scene.prepare_kinds(arguments.kinds or [""])
        figures = Figures()
        if not arguments.only_costs:
            measure_rates(scene, arguments.rates, arguments.rounds, figures)
        measure_costs(scene, figures)
        table = rows(scene, arguments.rates, figures)
    print(json.dumps({"kept": table}) if arguments.json else markdown(table, figures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what garbage costs a circuit.")
    parser.add_argument("--json", action="store_true", help="print JSON on one line")
    parser.add_argument("--kinds", nargs="*", help="only kinds whose name has one of these words")
    parser.add_argument("--rates", nargs="*", type=int, default=RATES, help="datagrams a second")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="intervals for each cell")
    parser.add_argument("--only-costs", action="store_true", help="no stream, processor time only")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        run(arguments)
        return
    missing = missing_requirements()
    if missing:
        result = {"skipped": " ".join(missing)}
        print(json.dumps(result) if arguments.json else result["skipped"])
        return
    command = isolation_command([sys.executable, __file__, INSIDE, *sys.argv[1:]])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
