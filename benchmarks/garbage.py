"""What a circuit keeps of its rate while one of its relays receives garbage, and what that costs.

Run ``python benchmarks/garbage.py [--json] [--quick] [--kinds WORD ...]``. Real nodes (source,
relay, exit) run in namespaces of their own; one TCP stream goes through the circuit all the
time. An attacker sends datagrams of one kind at a time from forged addresses to the relay's UDP
port. Each interval with garbage lies between two without, and its rate is divided by their mean.

Then the stream ends, and the processor time of the idle relay's process per datagram follows.
The sender runs on the same processors, so its own cost weighs on the circuit as well; its
processor time is in the table. Keep the host quiet: this takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # lab is part of the checkout, not of what is installed

from lab.flood import pack_payloads  # noqa: E402 - after the path
from lab.garbage import garbage_kinds  # noqa: E402
from lab.namespaces import isolation_command, missing_requirements  # noqa: E402
from lab.nodes import PORT, NodeProcess, wait_until  # noqa: E402
from lab.reading import UDP  # noqa: E402
from lab.underlay import Host, Underlay  # noqa: E402
from overlay.addresses import Endpoint  # noqa: E402
from overlay.keyfile import read_identity  # noqa: E402

RATES = (5_000, 20_000, 50_000)
COST_RATE = 10_000
SETTLE_S, MEASURE_S = 0.5, 1.2
WARM_UP_S = 4.0
INSIDE = "--inside"
NETWORK_ID = "laboratory"


class Scene:
    """Alice, one relay, one exit, bob who receives, and an attacker."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.underlay = stack.enter_context(Underlay())
        self.relay = self._node(stack, directory, "relay")
        self.exit = self._node(stack, directory, "exit", exits=True)
        self.alice = self._node(stack, directory, "alice")
        self.bob = self.underlay.add_server("bob")
        self.attacker = self.underlay.add_host("attacker")
        self._let_forged_packets_pass()
        self._start()

    def _node(
        self, stack: ExitStack, directory: Path, name: str, *, exits: bool = False
    ) -> NodeProcess:
        node = NodeProcess(self.underlay.add_host(name), directory / name, exits=exits)
        stack.callback(node.stop)
        return node

    def _let_forged_packets_pass(self) -> None:
        """Give forged sources a route, so that answers go somewhere and no filter drops them."""
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

    def kinds(self) -> dict[str, list[bytes]]:
        """Return the garbage for the relay."""
        target = read_identity(self.relay.directory / "identity.key")
        endpoint = Endpoint(self.relay.address, PORT)
        return garbage_kinds(target, NETWORK_ID, endpoint, self._link_spi())

    def _link_spi(self) -> bytes:
        """Watch the relay's cable for the SPI of the link from alice."""
        path = self.alice.directory / "cable.pcap"
        with self.relay.host.capture(path) as capture:
            time.sleep(0.3)
        for packet in capture.packets():
            control = packet.payload.startswith(bytes(4))
            if packet.source == self.alice.address and packet.protocol == UDP and not control:
                return packet.payload[:4]
        raise SystemExit("garbage: no ESP packet of the stream was seen.")


class Stream:
    """One TCP stream from alice to bob, and how fast it is."""

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
        """Return what reaches bob during one interval."""
        begun, before = time.monotonic(), received_bytes(self._bob)
        time.sleep(MEASURE_S)
        return (received_bytes(self._bob) - before) * 8e-6 / (time.monotonic() - begun)


def received_bytes(host: Host) -> int:
    """Return how many bytes a host's interface has received."""
    for line in Path(f"/proc/{host.namespace.pid}/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == host.interface:
            return int(counts.split()[0])
    raise SystemExit(f"garbage: {host.name} has no interface.")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, user and system, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Flood:
    """The attacker's program, for one interval."""

    def __init__(self, scene: Scene, payloads: list[bytes], rate: int, seconds: float) -> None:
        command = [sys.executable, "-m", "lab.flood", scene.relay.address, str(PORT)]
        self._program = scene.attacker.namespace.popen(
            [*command, str(rate), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._program.stdin is not None:
            self._program.stdin.write(pack_payloads(payloads))
            self._program.stdin.close()

    def result(self) -> dict[str, float]:
        """Wait for its end and return what it did."""
        output = self._program.stdout.read() if self._program.stdout else b""
        self._program.wait()
        result: dict[str, float] = json.loads(output)
        return result


def measure_rates(
    scene: Scene, kinds: dict[str, list[bytes]], rates: tuple[int, ...]
) -> list[dict[str, object]]:
    """Return one row for each kind, with what is kept of the rate under each flood."""
    stream = Stream(scene)
    time.sleep(WARM_UP_S)
    rows = []
    quiet = stream.rate_mbit_s()
    for name, payloads in kinds.items():
        row: dict[str, object] = {"kind": name}
        for rate in rates:
            flood = Flood(scene, payloads, rate, 0.2 + SETTLE_S + MEASURE_S)
            time.sleep(0.2 + SETTLE_S)
            disturbed = stream.rate_mbit_s()
            sent = flood.result()
            time.sleep(SETTLE_S)
            after = stream.rate_mbit_s()
            row[f"{rate:,}/s"] = f"{disturbed / statistics.mean((quiet, after)):.0%}"
            row[f"sent at {rate:,}/s"] = round(sent["sent"] / sent["seconds"])
            row[f"sender's CPU at {rate:,}/s"] = f"{sent['cpu_s'] / sent['seconds']:.0%}"
            row[f"undisturbed, Mbit/s, at {rate:,}/s"] = round(statistics.mean((quiet, after)))
            quiet = after
        rows.append(row)
        print(f"garbage: {row}", file=sys.stderr)
    if not stream.alive:
        raise SystemExit("garbage: the stream broke.")
    stream.end()
    return rows


def cpu_during(scene: Scene, seconds: float) -> float:
    """Return the processor time that the relay takes within an interval."""
    before = cpu_s(scene.relay.pid)
    time.sleep(seconds)
    return cpu_s(scene.relay.pid) - before


def measure_costs(scene: Scene, kinds: dict[str, list[bytes]]) -> dict[str, float]:
    """Return the processor time of the relay for one datagram of each kind, in microseconds."""
    costs = {}
    time.sleep(1.0)
    for name, payloads in kinds.items():
        idle = cpu_during(scene, 1.2)
        flood = Flood(scene, payloads, COST_RATE, 1.0)
        busy = cpu_during(scene, 1.2)
        costs[name] = (busy - idle) / flood.result()["sent"] * 1e6
    return costs


def markdown(rows: list[dict[str, object]], rates: tuple[int, ...]) -> str:
    """Return the table for docs/results/garbage.md."""
    columns = ["kind", *(f"{rate:,}/s" for rate in rates), "CPU of the relay, µs per datagram"]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    highest = f"{max(rates):,}/s"
    sent = [int(str(row[f"sent at {highest}"])) for row in rows if f"sent at {highest}" in row]
    shares = [
        str(row[f"sender's CPU at {highest}"])
        for row in rows
        if f"sender's CPU at {highest}" in row
    ]
    undisturbed = [
        int(str(v)) for row in rows for k, v in row.items() if k.startswith("undisturbed")
    ]
    if sent:
        lines.append("")
        lines.append(
            f"Undisturbed: {min(undisturbed)} to {max(undisturbed)} Mbit/s. The sender reached "
            f"{min(sent):,} to {max(sent):,} datagrams a second at {highest}, and took "
            f"{min(shares)} to {max(shares)} of one processor for that."
        )
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overlay-")))
        scene = Scene(stack, directory)
        probe = Stream(scene)
        time.sleep(1.0)
        kinds = scene.kinds()
        probe.end()
        if arguments.kinds:
            kinds = {k: v for k, v in kinds.items() if any(word in k for word in arguments.kinds)}
        rates = tuple(arguments.rates)
        rows = [] if arguments.only_costs else measure_rates(scene, kinds, rates)
        costs = measure_costs(scene, kinds)
        rows = rows or [{"kind": name} for name in kinds]
        for row in rows:
            row["CPU of the relay, µs per datagram"] = round(costs[str(row["kind"])], 1)
    if arguments.json:
        print(json.dumps({"kept": rows}))
    else:
        print(markdown(rows, rates))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what garbage costs a circuit.")
    parser.add_argument("--json", action="store_true", help="print JSON on one line")
    parser.add_argument("--kinds", nargs="*", help="only kinds whose name has one of these words")
    parser.add_argument("--rates", nargs="*", type=int, default=RATES, help="datagrams a second")
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
