"""Compare the simulator with the unmodified ``kademlia`` package under virtual time.

    python benchmarks/simulator.py [--json] [--seconds S] [--budget S]

Both pass their datagrams in memory with the same delays, 25 to 75 ms in one direction, on one core,
in separate processes, in turn. The simulator runs at full fidelity: the product's DHT core, with
the time of signatures in simulated time. The package's network is built by joins, as its users do
it. The simulator begins in equilibrium. The measured time includes periodic work and lookups.
Memory is the growth of the resident set per node. If a run of the package exceeds the budget (wall
seconds), its state at that time is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

SIZES = (1_000, 10_000)


def resident_bytes() -> int:
    """Return the present resident set of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def ours(nodes: int, seconds: float, budget_s: float) -> dict[str, Any]:
    """Measure a network of the simulator."""
    from sims.scenario.scenario import Churn, Scenario
    from sims.world.engine.collector import patient_collector
    from sims.world.participants.world import START
    from sims.world.run import Simulation

    scenario = Scenario(
        nodes=nodes,
        churn=Churn("none"),
        duration_s=86_400.0,
        warm_up_s=0.0,
        lookups_per_hour=6.0,
        sample_interval_s=86_400.0,
    )
    with patient_collector():
        before = resident_bytes()
        simulation = Simulation(scenario, 1)
        simulation.population.begin()
        gc.collect()
        idle_bytes = (resident_bytes() - before) / nodes
        simulation.lookups.begin()
        world, began, busy = simulation.world, time.perf_counter(), time.process_time()
        world.heap.run(START + seconds, lambda: time.perf_counter() - began > budget_s)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - busy
    return {
        "nodes": nodes,
        "datagrams": world.network.sent,
        "datagrams_per_s": world.network.sent / wall_s,
        "datagrams_per_cpu_s": world.network.sent / cpu_s,
        "simulated_per_wall": world.time_s / wall_s,
        "idle_node_bytes": idle_bytes,
        "node_bytes_at_end": (resident_bytes() - before) / nodes,
    }


class VirtualSelector:
    """A selector that waits by advancing the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        """Advance the clock to the end of the wait at once."""
        self.now += timeout or 0.0
        return []

    def close(self) -> None:
        """Do nothing, because there are no resources."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the selector's; it has no socket to wake it."""

    def __init__(self) -> None:
        self.virtual = VirtualSelector()
        super().__init__(self.virtual)  # type: ignore[arg-type]

    def time(self) -> float:
        """Return the virtual time."""
        return self.virtual.now

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = SimpleNamespace(close=lambda: None)  # type: ignore[assignment]
        self._internal_fds = 0

    def _close_self_pipe(self) -> None:
        """Do nothing, because there is no such pipe."""


def package(nodes: int, seconds: float, budget_s: float) -> dict[str, Any]:
    """Measure a network of the unmodified package: build it by joins, then let it idle."""
    import kademlia.routing
    import kademlia.storage
    from kademlia.network import Server

    logging.disable(logging.CRITICAL)
    random.seed(1)
    loop = VirtualLoop()
    clock = SimpleNamespace(monotonic=loop.time)
    kademlia.routing.time = kademlia.storage.time = clock
    protocols: dict[tuple[str, int], Any] = {}
    sent = 0

    def transport(address: tuple[str, int]) -> SimpleNamespace:
        def sendto(data: bytes, to: tuple[str, int]) -> None:
            nonlocal sent
            sent += 1
            receiver = protocols.get(tuple(to))  # type: ignore[arg-type]
            if receiver is not None:
                delay = random.uniform(0.025, 0.075)
                loop.call_later(delay, receiver.datagram_received, data, address)

        return SimpleNamespace(sendto=sendto, close=lambda: None)

    def add(number: int) -> Server:
        server = Server(ksize=20, alpha=3)
        address = (f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4500)
        server.protocol = server._create_protocol()
        server.transport = server.protocol.transport = transport(address)
        protocols[address] = server.protocol
        return server

    before, began, busy = resident_bytes(), time.perf_counter(), time.process_time()
    servers = [add(0)]

    async def grow() -> None:
        while len(servers) < nodes and time.perf_counter() - began < budget_s:
            server = add(len(servers))
            await server.bootstrap([("11.0.0.0", 4500)])
            servers.append(server)
        if len(servers) == nodes:
            await asyncio.sleep(seconds)

    loop.run_until_complete(grow())
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - busy
    return {
        "nodes": len(servers),
        "nodes_wanted": nodes,
        "datagrams": sent,
        "datagrams_per_s": sent / wall_s,
        "datagrams_per_cpu_s": sent / cpu_s,
        "simulated_per_wall": loop.time() / wall_s,
        "node_bytes_at_end": (resident_bytes() - before) / len(servers),
    }


MEASURES: dict[str, Callable[[int, float, float], dict[str, Any]]] = {
    "ours": ours,
    "package": package,
}


def in_a_process(name: str, nodes: int, seconds: float, budget_s: float) -> dict[str, Any]:
    """Measure in a separate process, so that other measurements do not affect its memory."""
    command = [sys.executable, __file__, "--one", name, "--nodes", str(nodes)]
    command += ["--seconds", str(seconds), "--budget", str(budget_s)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure both at every size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--seconds", type=float, default=120.0, help="simulated time, each")
    parser.add_argument("--budget", type=float, default=60.0, help="wall time of a run at most")
    parser.add_argument("--one", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, default=SIZES[0], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure = MEASURES[arguments.one]
        print(json.dumps(measure(arguments.nodes, arguments.seconds, arguments.budget)))
        return
    rows = [
        {"simulator": name} | in_a_process(name, nodes, arguments.seconds, arguments.budget)
        for nodes in SIZES
        for name in MEASURES
    ]
    if arguments.json:
        print(json.dumps({"simulators": rows}))
        return
    for row in rows:
        print("  ".join(f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()))  # fmt: skip


if __name__ == "__main__":
    main()
