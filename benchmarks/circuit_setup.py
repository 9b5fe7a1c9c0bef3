"""Measure what one circuit of three hops costs a relay: CPU time of the set-up, and idle memory.

The relay is the middle hop, with the userspace engine. The measured work is: receive the onion's
packet from the engine, open and peel the onion, store the circuit, install its SAs and policies,
encrypt the peeled onion by the link SA, and send it.

A circuit is idle if more than a minute has passed since its set-up, in which only keep-alives used
it, the last one some seconds ago. Two values of its memory are given. The first is the size of all
Python objects of the relay's engine and path management, including soft state and the replay
cache. The second is the growth of the resident memory of a process that contains only the relay. It
includes OpenSSL's contexts and the losses of allocators. Run::

    python benchmarks/circuit_setup.py [--circuits 300] [--resident-circuits 500] [--json]
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import itertools
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FunctionType, ModuleType

from overlay.addresses import Endpoint
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import Spi
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.events import LinkKeys
from overlay.link.security import LinkSecurity, link_configuration
from overlay.selection.selector import MixPath
from overlay.sensitive import SecretBytes
from overlay.work_budget import WorkBudget

HOPS = 3
MEASURED = 2
START = 1_700_000_000.0
IDLE_S = 98
"""Longer than all state of signalling lasts, except for the replay cache. After sixteen early
keep-alives one follows every 30 seconds, which is every 31 to 33 steps. The last one is some
seconds before the end of the first two such times."""
STAGES = 4
"""Resident memory is measured in three more stages after the first. Each stage uses the memory that
the signalling of the stage before has freed, and every hash table has doubled twice."""
DESTINATION = ipaddress.ip_network("93.184.216.34/32")


Datagrams = list[tuple[bytes, Endpoint]]


class Node:
    """A manager with its engine at a separate address."""

    def __init__(self, number: int, settings: ApmSettings) -> None:
        rng = Random(number)
        self.identity = LocalIdentity.generate(rng)
        self.endpoint = Endpoint(f"10.0.0.{number + 1}", 4500)
        self.engine = UserspaceEngine(rng=rng)
        pool = InnerAddressPool(ipaddress.IPv4Network("100.64.0.0/10"), None, rng)
        self.manager = SignallingManager(
            self.identity,
            self.engine,
            SpiAllocator(rng),
            settings,
            rng,
            pool,
            relay=True,
            budget=WorkBudget(math.inf),
        )

    @property
    def descriptor(self) -> MixDescriptor:
        """Return the node's descriptor, as a topology table would have it."""
        return MixDescriptor(
            network_id="benchmark",
            identity_key=self.identity.identity_key,
            onion_keys=(OnionKey(1, self.identity.onion_key),),
            link_key=self.identity.link_key,
            esp_suites=(3,),
            endpoints=(self.endpoint,),
            roles=frozenset({Role.RELAY, Role.EXIT}),
            exit_policy=None,
            bandwidth_kbit=0,
            sequence=1,
            valid_from=0,
            expires=2**31,
            encoded=b"",
        )

    def link_to(self, peer: Node, reqid: int, keys: LinkKeys) -> None:
        """Install one end of a link."""
        self.engine.install(
            link_configuration(
                self.identity.overlay_address,
                peer.identity.overlay_address,
                local=self.endpoint,
                remote=peer.endpoint,
                keys=keys,
                reqid=reqid,
            )
        )
        security = LinkSecurity(reqid, self.endpoint.packed, peer.endpoint.packed)
        self.manager.link_established(peer.identity.overlay_address, security, START)

    def step(self, datagrams: Datagrams, now: float) -> Datagrams:
        """Process datagrams, run the timers, and return the datagrams to send."""
        processed = self.engine.process_inbound(datagrams, now)
        self.manager.receive(processed.to_control, now)
        if self.manager.next_deadline() <= now:
            self.manager.handle_deadline(now)
        self.manager.events()
        packets = self.manager.packets_to_send(now)
        return processed.to_network + self.engine.process_outbound(packets, now).to_network


class RemoteNode:
    """A node in a separate process, so that the memory of that process is that of the node."""

    def __init__(self, node: Node) -> None:
        context = multiprocessing.get_context("fork")
        self.endpoint = node.endpoint
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=serve, args=(far_end, node), daemon=True)
        self._process.start()
        far_end.close()

    def step(self, datagrams: Datagrams, now: float) -> Datagrams:
        """Do the same as :meth:`Node.step`."""
        self._pipe.send((datagrams, now))
        left: Datagrams = self._pipe.recv()
        return left

    def resident_bytes(self) -> int:
        """Return the resident memory of the node's process."""
        self._pipe.send(None)
        size: int = self._pipe.recv()
        return size

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def serve(pipe: Connection, node: Node) -> None:
    """Run the node of a :class:`RemoteNode` in this process until it is stopped."""
    while True:
        asked = pipe.recv()
        if asked is None:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            pipe.send(pages * resource.getpagesize())
        else:
            pipe.send(node.step(*asked))


class Chain:
    """Source, relays and exit with links between neighbours, and their common clock."""

    def __init__(self) -> None:
        settings = ApmSettings(
            keepalive_interval_s=30.0,
            idle_expiry_s=120.0,
            max_source_circuits=1_000_000,
            max_circuits=1_000_000,
            max_circuits_per_neighbour=1_000_000,
            max_replay_entries=1_000_000,
            max_replay_entries_per_neighbour=1_000_000,
            allow_private_endpoints=True,
        )
        nodes = [Node(number, settings) for number in range(HOPS + 1)]
        self.now = START
        self.source, self.relay = nodes[0], nodes[MEASURED]
        self.nodes: list[Node | RemoteNode] = list(nodes)
        self._path = MixPath(tuple(node.descriptor for node in nodes[1:]))
        rng = Random(99)
        for reqid, (left, right) in enumerate(itertools.pairwise(nodes), start=1):
            spis = [Spi(rng.randint(256, 2**32 - 1)) for _ in range(2)]
            secrets = [SecretBytes(rng.randbytes(36)) for _ in range(2)]
            left.link_to(right, 2 * reqid, LinkKeys(3, spis[0], secrets[0], spis[1], secrets[1]))
            right.link_to(
                left, 2 * reqid + 1, LinkKeys(3, spis[1], secrets[1], spis[0], secrets[0])
            )

    def open_circuit(self) -> float:
        """Open one circuit; return the CPU seconds that the onion cost the measured relay."""
        self.source.manager.anonymous_connection(self._path, DESTINATION, self.now)
        return self._deliver(self.source.step([], self.now))

    def idle(self, seconds: int) -> None:
        """Let time pass, so that timers run and circuits carry keep-alives."""
        for _ in range(seconds):
            self.now += 1
            for node in self.nodes:
                self._deliver(node.step([], self.now))

    def _deliver(self, under_way: Datagrams) -> float:
        spent = 0.0
        while under_way:
            arriving: dict[Endpoint, Datagrams] = {}
            for data, endpoint in under_way:
                arriving.setdefault(endpoint, []).append((data, endpoint))
            under_way = []
            for node in self.nodes:
                datagrams = arriving.get(node.endpoint)
                if not datagrams:
                    continue
                begin = time.process_time()
                under_way += node.step(datagrams, self.now)
                if node is self.relay and not spent:
                    # The first packet of a new circuit that reaches a relay is its onion.
                    spent = time.process_time() - begin
        return spent


def held_bytes(*roots: object) -> int:
    """Return the size of all objects of ``roots``, without code and shared constants."""
    seen: set[int] = set()
    total, found = 0, list(roots)
    while found:
        each = found.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        found.extend(gc.get_referents(each))
    return total


def held_by_circuit(chain: Chain, circuits: int) -> tuple[float, list[float]]:
    """Open circuits; return the bytes of Python objects of an idle one, and CPU seconds."""
    before = held_bytes(chain.relay.engine, chain.relay.manager)
    spent = [chain.open_circuit() for _ in range(circuits)]
    chain.idle(IDLE_S)
    after = held_bytes(chain.relay.engine, chain.relay.manager)
    return (after - before) / circuits, spent


def resident_by_circuit(circuits: int) -> float:
    """Return by how many bytes an idle circuit makes a relay's process larger."""
    chain = Chain()
    relay = chain.nodes[MEASURED] = RemoteNode(chain.relay)
    sizes = []
    for _ in range(STAGES):
        for _ in range(circuits):
            chain.open_circuit()
        chain.idle(IDLE_S)
        sizes.append(relay.resident_bytes())
    relay.stop()
    return (sizes[-1] - sizes[0]) / (circuits * (STAGES - 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of circuit set-up at a relay")
    parser.add_argument("--circuits", type=int, default=300, help="how many to set up")
    parser.add_argument(
        "--resident-circuits", type=int, default=500, help="how many for each of four stages"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    chain = Chain()
    held, spent = held_by_circuit(chain, arguments.circuits)
    if chain.relay.manager.relay_report().relayed != arguments.circuits:
        raise SystemExit("not every circuit was set up and kept")
    result = {
        "circuits": arguments.circuits,
        "hops": HOPS,
        "relay_cpu_ms_median": round(statistics.median(spent) * 1000, 4),
        "relay_cpu_ms_mean": round(statistics.fmean(spent) * 1000, 4),
        "relay_cpu_ms_max": round(max(spent) * 1000, 4),
        "relay_idle_circuit_bytes": round(held),
        "relay_idle_circuit_resident_bytes": round(
            resident_by_circuit(arguments.resident_circuits)
        ),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:36}{value}")


if __name__ == "__main__":
    main()
