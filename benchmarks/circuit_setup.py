"""What one circuit of three hops costs a relay: CPU time to set it up, memory while it idles.

Measured at the middle hop, with the userspace engine: receive the onion's packet from the
engine, open and peel it, remember the circuit, install its SAs and policies, and hand the
peeled onion, sealed by the link SA, to the network. The memory is that of all Python objects
which the relay's engine and path management hold, soft state and replay cache included. Run::

    python benchmarks/circuit_setup.py [--circuits 300] [--json]
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import itertools
import json
import statistics
import sys
import time
from random import Random
from types import FunctionType, ModuleType

from overlay.addresses import Endpoint
from overlay.apm.circuits import LinkSecurity
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.apm.translator import link_configuration
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.identity import LocalIdentity
from overlay.ipsec.model import Spi
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.model import LinkKeys
from overlay.selection.selector import MixPath
from overlay.sensitive import SecretBytes

HOPS = 3
MEASURED = 2
NOW = 1_700_000_000.0
DESTINATION = ipaddress.ip_network("93.184.216.34/32")


class Node:
    """A manager with its engine at an address of its own."""

    def __init__(self, number: int, settings: ApmSettings) -> None:
        rng = Random(number)
        self.identity = LocalIdentity.generate(rng)
        self.endpoint = Endpoint(f"10.0.0.{number + 1}", 4500)
        self.engine = UserspaceEngine(rng=rng)
        pool = InnerAddressPool(ipaddress.IPv4Network("100.64.0.0/10"), None, rng)
        self.manager = SignallingManager(
            self.identity, self.engine, SpiAllocator(rng), settings, rng, pool, relay=True
        )

    @property
    def descriptor(self) -> MixDescriptor:
        """As the topology table would hold it."""
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
        self.manager.link_established(peer.identity.overlay_address, security, NOW)

    def step(self, datagrams: list[tuple[bytes, Endpoint]]) -> list[tuple[bytes, Endpoint]]:
        """Take datagrams and return those that leave."""
        processed = self.engine.process_inbound(datagrams, NOW)
        self.manager.receive(processed.to_control, NOW)
        packets = self.manager.packets_to_send(NOW)
        return processed.to_network + self.engine.process_outbound(packets, NOW).to_network


def make_chain() -> list[Node]:
    """Build source, relays and exit with links between neighbours."""
    settings = ApmSettings(
        max_source_circuits=100_000,
        max_circuits=100_000,
        max_circuits_per_neighbour=100_000,
        allow_private_endpoints=True,
    )
    nodes = [Node(number, settings) for number in range(HOPS + 1)]
    rng = Random(99)
    for reqid, (left, right) in enumerate(itertools.pairwise(nodes), start=1):
        spis = [Spi(rng.randint(256, 2**32 - 1)) for _ in range(2)]
        secrets = [SecretBytes(rng.randbytes(36)) for _ in range(2)]
        left.link_to(right, 2 * reqid, LinkKeys(3, spis[0], secrets[0], spis[1], secrets[1]))
        right.link_to(left, 2 * reqid + 1, LinkKeys(3, spis[1], secrets[1], spis[0], secrets[0]))
    return nodes


def set_up_one(nodes: list[Node], path: MixPath) -> float:
    """Open one circuit; return the CPU seconds that the onion cost the measured relay."""
    source = nodes[0]
    source.manager.anonymous_connection(path, DESTINATION, NOW)
    under_way = source.step([])
    spent = 0.0
    while under_way:
        arriving: dict[Endpoint, list[tuple[bytes, Endpoint]]] = {}
        for data, endpoint in under_way:
            arriving.setdefault(endpoint, []).append((data, endpoint))
        under_way = []
        for node in nodes:
            datagrams = arriving.get(node.endpoint)
            if not datagrams:
                continue
            relayed = node.manager.relay_report().relayed
            begin = time.process_time()
            under_way += node.step(datagrams)
            end = time.process_time()
            if node is nodes[MEASURED] and node.manager.relay_report().relayed > relayed:
                spent = end - begin
    return spent


def held_bytes(*roots: object) -> int:
    """Return the size of all objects that ``roots`` hold, code and shared constants left out."""
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of circuit set-up at a relay")
    parser.add_argument("--circuits", type=int, default=300, help="how many to set up")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    nodes = make_chain()
    path = MixPath(tuple(node.descriptor for node in nodes[1:]))
    relay = nodes[MEASURED]
    before = held_bytes(relay.engine, relay.manager)
    spent_ms = [set_up_one(nodes, path) * 1000 for _ in range(arguments.circuits)]
    idle = (held_bytes(relay.engine, relay.manager) - before) / arguments.circuits
    if relay.manager.relay_report().relayed != arguments.circuits:
        raise SystemExit("not every circuit was set up")
    result = {
        "circuits": arguments.circuits,
        "hops": HOPS,
        "relay_cpu_ms_median": round(statistics.median(spent_ms), 4),
        "relay_cpu_ms_mean": round(statistics.fmean(spent_ms), 4),
        "relay_cpu_ms_max": round(max(spent_ms), 4),
        "relay_idle_circuit_bytes": round(idle),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24}{value}")


if __name__ == "__main__":
    main()
