"""Measure how fast three hops carry ordinary traffic, and the processor time of all nodes.

Run ``python benchmarks/circuit_traffic.py [--json] [--rounds N]``. Five real nodes (bootstrap node,
source, two relays, exit) and a server run in separate namespaces. One circuit over both relays and
the exit carries the traffic:

* one TCP stream to the server, and one from it: rate, and processor time of all nodes per gigabyte;
* ``ping`` on an idle circuit, and beside each stream, which shows how long the queues are;
* UDP packets of 64 and 200 bytes, offered faster than the circuit carries them: how many arrive.

Figures are medians of all rounds. Other load of the host affects processor time less than rates,
but keep the host idle.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # lab is part of the checkout, not of what is installed

from lab.namespaces import isolation_command, missing_requirements  # noqa: E402 - after the path
from lab.nodes import NodeProcess, wait_until  # noqa: E402
from lab.underlay import Underlay  # noqa: E402

INSIDE = "--inside"
HOPS = ("mix1", "mix2", "exit")
ROUNDS, SECONDS = 5, 5
WARM_UP_S = 1
PINGS, PING_INTERVAL_S = 100, 0.02
SMALL_BYTES = {64: 36, 200: 172}
"""UDP packet over IPv4 -> its payload."""
OFFERED_BITS = "60M"
_TICKS = os.sysconf("SC_CLK_TCK")


class Scene:
    """A circuit from Alice over two relays and an exit to Bob, who serves iperf3."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        underlay = stack.enter_context(Underlay())
        self.nodes = {
            name: NodeProcess(underlay.add_host(name), directory / name, exits=name == "exit")
            for name in ("boot", *HOPS, "alice")
        }
        self.alice = self.nodes["alice"]
        bob = underlay.add_server("bob")
        self.destination = str(bob.ipv4.ip)
        server = bob.namespace.popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
        stack.callback(server.kill)
        boot = self.nodes["boot"]
        for node in self.nodes.values():
            stack.callback(node.stop)
            node.start(None if node is boot else boot)
            wait_until(f"answers of a node in {node.directory.name}", _answers(node), timeout_s=30)
        wait_until("the topology table", self._knows_all, timeout_s=60)
        via = [part for hop in HOPS for part in ("--via", self.nodes[hop].overlay_address)]
        self.alice.ask("path", "open", self.destination, "--strategy", "explicit", *via)

    def _knows_all(self) -> bool:
        status = self.alice.status() or {}
        return int(status.get("mix_nodes", 0)) >= len(self.nodes) - 1

    def used_s(self) -> float:
        """Return the processor time of all nodes so far, in seconds."""
        return sum(_used_s(node.pid) for node in self.nodes.values())

    def stream(self, *options: str) -> dict[str, float]:
        """Run one TCP stream with a ping beside it."""
        ping = self._pinging(int((SECONDS + WARM_UP_S) / PING_INTERVAL_S))
        before = self.used_s()
        end = self._iperf("-O", str(WARM_UP_S), *options)
        used = self.used_s() - before
        bits = end["sum_received"]["bits_per_second"]
        # The warm-up costs processor time too.
        gigabytes = bits / 8e9 * (SECONDS + WARM_UP_S)
        return {
            "mbit": bits / 1e6,
            "cpu_s_per_gb": used / gigabytes,
            "ping_ms": _median_rtt_ms(ping.communicate()[0]),
        }

    def datagrams(self, payload_bytes: int) -> float:
        """Return how many UDP packets of this size arrive in a second."""
        sent = self._iperf("-u", "-l", str(payload_bytes), "-b", OFFERED_BITS)["sum"]
        return float((sent["packets"] - sent["lost_packets"]) / sent["seconds"])

    def idle_ping_ms(self) -> float:
        """Return the median round-trip time of an idle circuit in milliseconds."""
        return _median_rtt_ms(self._pinging(PINGS).communicate()[0])

    def _pinging(self, count: int) -> Any:  # noqa: ANN401 - a program of the laboratory
        command = ["ping", "-n", "-c", str(count), "-i", str(PING_INTERVAL_S), self.destination]
        return self.alice.host.namespace.popen(command, stdout=subprocess.PIPE)

    def _iperf(self, *options: str) -> dict[str, Any]:
        command = ["iperf3", "-J", "-c", self.destination, "-t", str(SECONDS)]
        command += options
        done = self.alice.host.namespace.run(command, check=False, timeout_s=SECONDS + 60)
        read: dict[str, Any] = json.loads(done.stdout)
        if "error" in read:
            sys.exit(f"circuit_traffic: iperf3 says: {read['error']}.")
        end: dict[str, Any] = read["end"]
        return end


def _answers(node: NodeProcess) -> Any:  # noqa: ANN401 - a predicate
    return lambda: node.answers


def _used_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _median_rtt_ms(printed: bytes) -> float:
    times = [float(each) for each in re.findall(rb"time=([\d.]+) ms", printed)]
    return statistics.median(times) if times else float("nan")


def measure(rounds: int) -> dict[str, Any]:
    """Return medians over all rounds."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        scene = Scene(stack, Path(directory))
        taken: list[dict[str, float]] = []
        for _ in range(rounds):
            row = {"idle_ping_ms": scene.idle_ping_ms()}
            for name, options in (("to_server", ()), ("from_server", ("-R",))):
                row |= {f"{name}_{key}": value for key, value in scene.stream(*options).items()}
            for size, payload in SMALL_BYTES.items():
                row[f"udp_{size}_bytes_per_s"] = scene.datagrams(payload)
            taken.append(row)
    return {key: round(statistics.median(row[key] for row in taken), 2) for key in taken[0]}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not arguments.inside:
        if missing := missing_requirements():
            sys.exit(f"circuit_traffic: {missing[0]}")
        command = isolation_command([sys.executable, __file__, INSIDE, *argv])
        os.execvp(command[0], command)
    figures = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps({"three hops": figures}))
        return
    for name, value in figures.items():
        print(f"{name:<26}{value:>12}")


if __name__ == "__main__":
    main(sys.argv[1:])
