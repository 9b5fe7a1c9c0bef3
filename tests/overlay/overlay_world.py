"""A whole overlay in memory: real cores and engines on the network of `sims.world.engine`."""

import contextlib
from dataclasses import replace
from ipaddress import ip_network
from random import Random

from overlay.addresses import Endpoint
from overlay.config import Configuration
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.assembly import Surroundings, build_cores
from overlay.node.own_descriptor import own_descriptor
from overlay.paths.requested_path import PathTerms
from overlay.special_networks import DOCUMENTATION_NETWORKS
from sims.world.engine.conditions import tap
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.latency import Constant

START = 1_800_000_000.0
DELAY_S = 0.02


class MemoryKillSwitch:
    """The kill switch of one simulated host."""

    def __init__(self):
        self.protected, self.carried = set(), {}

    def protect(self, *destinations):
        self.protected.update(destinations)

    def carry(self, *carried):
        assert {destination for destination, _ in carried} <= self.protected
        self.carried.update(carried)

    def uncarry(self, destination, inner_address):
        assert self.carried.pop(destination) == inner_address

    together = contextlib.nullcontext

    def release(self, *destinations):
        self.protected.difference_update(destinations)


class MemoryDevice:
    """A TUN device whose kernel side is a list."""

    def __init__(self):
        self.written = []

    def write_batch(self, packets):
        self.written += packets


class SimulatedNode:
    """One node: its cores, at an endpoint of the world's network."""

    def __init__(self, world, number, *, exits):
        self.world, self.index, self.name = world, number - 1, f"node{number}"
        self.endpoint = Endpoint(f"11.{number}.0.1", 4500)
        self.identity = LocalIdentity.generate(Random(f"identity {number}"))
        self.configuration = configuration(exits=exits)
        self.kill_switch, self.source_device, self.exit_device = (
            MemoryKillSwitch(),
            MemoryDevice(),
            MemoryDevice(),
        )
        self.rng = Random(f"rng {number}")
        self.local_addresses = set()
        self.forgotten = []
        self.admits = None
        """The endpoints from which the NAT before the node admits packets, if there is a NAT."""
        self.engine = UserspaceEngine(rng=self.rng)
        self.cores = build_cores(
            self.configuration,
            self.identity,
            Surroundings(
                network=self,
                kill_switch=self.kill_switch,
                local_address=lambda peer: self.endpoint,
                local_addresses=lambda: frozenset(self.local_addresses),
                forget_inner_addresses=lambda addresses: self.forgotten.extend(addresses),
            ),
            engine=self.engine,
            endpoints=(self.endpoint,),
            rng=self.rng,
        )
        self.cores.datapath.source_device = self.source_device
        self.cores.datapath.exit_device = self.exit_device

    def send_batch(self, batch):
        for datagram, to in batch:
            if self.admits is not None:
                self.admits.add(to)
            self.world.network.carry(bytes(datagram), self.endpoint, to)

    send_whole = send_batch

    def arrived(self, item):
        if self.admits is None or item[1] in self.admits:
            self.cores.receive([item], self.world.now)

    def next_deadline(self):
        return self.cores.next_deadline()

    def handle_deadline(self, now):
        self.cores.handle_deadline(now)

    def publish(self):
        now = self.world.now
        descriptor = own_descriptor(
            self.configuration,
            self.identity,
            endpoints=(self.endpoint,),
            esp_suites=self.engine.capabilities().suites,
            exit_versions=frozenset((4, 6)),
            now=now,
            sequence=int(now * 1000),
        )
        self.cores.dht.publish(descriptor, now)

    def join(self, bootstrap):
        now = self.world.now
        self.publish()
        self.cores.dht.bootstrap([] if bootstrap is self else [bootstrap.endpoint], now)
        self.cores.settle(now)

    def request(self, destination, *, hops=3):
        terms = PathTerms(ip_network(destination), hops, "uniform")
        [path] = self.cores.paths.open_paths([terms], self.world.now)
        self.cores.settle(self.world.now)
        return path

    def close(self, path):
        self.cores.paths.close(path.number, self.world.now)
        self.cores.settle(self.world.now)


class World:
    """The nodes, the network between them, and the only clock. ``wire`` has what was sent."""

    def __init__(self, count, *, exits=2):
        self.heap = EventHeap(START)
        self.network = Network(self.heap, Constant(DELAY_S), Random("network"))
        self.wire = []
        self.network.impose(tap(lambda f: self.wire.append((f.source, f.to, f.datagram))))
        self.all = [SimulatedNode(self, n + 1, exits=n >= count - exits) for n in range(count)]
        self.crashed = []
        for node in self.all:
            self.network.attach(node)

    @property
    def now(self):
        return self.heap.now

    def crash(self, node):
        self.crashed.append(node)
        self.network.crash(node)

    def revive(self, node):
        """Let a crashed node go on with the state that it had."""
        self.crashed.remove(node)
        self.network.attach(node)

    def restart(self, node):
        """Replace a node by a new process of it that knows nothing of the old one's SAs."""
        fresh = SimulatedNode(self, node.index + 1, exits=node.configuration.roles.exit)
        self.all[self.all.index(node)] = fresh
        self.network.attach(fresh)
        fresh.join(self.all[0] if node is not self.all[0] else self.all[1])

    def move(self, node, endpoint):
        """Give a node's host another address. Its node signs it and tells others at once."""
        self.network.crash(node)
        node.endpoint = endpoint
        self.network.attach(node)
        node.cores.dht.relocate((endpoint,), (4, 6), self.now)
        node.publish()
        node.cores.renew_links(self.now)
        node.cores.settle(self.now)

    def alive(self):
        return [node for node in self.all if node not in self.crashed]

    def run(self, seconds, until=lambda: False):
        """Let virtual time pass; return whether ``until`` came to hold."""
        return run_with_deadlines(self.heap, self.now + seconds, self.alive, until)

    def join_all(self):
        """Let every node join through the first one and learn of all others."""
        for node in self.all:
            node.join(self.all[0])
        others = len(self.all) - 1
        assert self.run(120, until=lambda: all(len(n.cores.table) >= others for n in self.all))


def configuration(*, exits):
    given = Configuration()
    return replace(
        given,
        roles=replace(given.roles, exit=exits),
        exit=replace(given.exit, allow_forbidden=DOCUMENTATION_NETWORKS),  # Bob has one
        dht=replace(given.dht, crawl_first_interval_s=1.0),
    )
