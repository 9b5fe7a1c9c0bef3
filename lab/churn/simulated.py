"""Play the script in the simulator, with its world, machines and clock, and the product's cores.

Two parts are replaced. A circuit opens if every node of its path runs at that moment. A client's
topology table gets the events that the client's cores would pass to it. The product's code chooses
paths and decides about further attempts.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import partial
from typing import Final

from lab.churn.ledger import CounterTotals
from lab.churn.measured import Measured
from lab.churn.probing import Probing
from lab.churn.script import HOPS, ChurnScript, Switch, endpoint_of
from overlay.addresses import InnerAddress, IpNetwork, NodeId
from overlay.apm.events import CircuitFailed, CircuitOpened
from overlay.apm.inner_addresses import InnerAddresses
from overlay.dht.events import DhtEvent
from overlay.dht.topology_table import TopologyTable
from overlay.errors import CircuitTimedOut, NoSuitablePath
from overlay.paths.mix_choice import MixChoice
from overlay.paths.paths import Paths
from overlay.paths.requested_path import PathTerms
from overlay.selection.selector import MixPath
from overlay.selection.uniform import UniformSelector
from sims.world.engine.conditions import Flight, tap
from sims.world.engine.streams import Streams
from sims.world.latency import build_latency
from sims.world.participants.carriers import ValueCarrier
from sims.world.participants.full_node import NoKillSwitch
from sims.world.participants.machine import Machine
from sims.world.participants.protocols import Population
from sims.world.participants.world import START, World

__all__ = ["simulate"]

_DESTINATION: Final = ipaddress.ip_network("203.0.114.10/32")
"""A public address, because exits refuse those of documentation."""
_INNER: Final = InnerAddresses(InnerAddress(bytes([100, 64, 0, 2])), None)
_SETUP_S: Final = 0.05
_SETUP_TIMEOUT_S: Final = 6.0


def simulate(script: ChurnScript, seed: int) -> Measured:
    """Play the script once; ``seed`` determines identities, delays and every node's choices."""
    return _Play(script, seed).run()


class _Hosts(Population):
    """The laboratory's hosts. The prober, which is the last one, publishes and crawls nothing."""

    def __init__(self, world: World, script: ChurnScript) -> None:
        self._script = script
        for node in range(script.nodes + 1):
            world.add(endpoint_of(node))
        world.bootstrap = (endpoint_of(script.bootstrap),)

    def is_exit(self, machine: Machine) -> bool:
        """Tell whether the script has this host as an exit."""
        return machine.index in self._script.exits

    def crawls(self, machine: Machine) -> bool:
        """Tell whether this is a node of the overlay."""
        return machine.index != self._script.prober

    def publishes(self, machine: Machine) -> bool:
        """Tell whether this is a node of the overlay."""
        return machine.index != self._script.prober


class _World(World):
    """A world that counts the datagrams and bytes of each host."""

    def __init__(self, script: ChurnScript, seed: int) -> None:
        super().__init__(
            Streams(seed),
            script.timing.dht_settings(),
            build_latency("uniform", low_s=0.0005, high_s=0.003, matrix=None),
            ValueCarrier(),
            population=partial(_Hosts, script=script),
        )
        self.datagrams: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()
        self.network.impose(tap(self._count))

    def _count(self, flight: Flight) -> None:
        size, _ = self.measure(flight.datagram)
        self.datagrams[flight.sender] += 1
        self.bytes[flight.sender] += size


class _Client:
    """A client that opens a path, closes it, waits and repeats; it knows what its crawls found."""

    def __init__(self, play: _Play, machine: Machine) -> None:
        world = play.world
        self._play = play
        self._world = world
        self._last = 0
        self.table = TopologyTable(allow_private_endpoints=True)
        self.paths = Paths(
            circuits=self,
            kill_switch=NoKillSwitch(),
            choice=MixChoice(
                table=self.table,
                selector=lambda _: UniformSelector(),
                source=machine.node_id,
                onion_suite=1,
                esp_suite=3,
                rng=world.streams.stream("paths", machine.index),
                versions=lambda: frozenset((4, 6)),
            ),
        )

    def told(self, event: DhtEvent) -> None:
        """Process an event as the node's cores do."""
        self.table.take(event, self._world.heap.now)

    def ask(self, *_: object) -> None:
        """Close the last path, if there is one, and request a new one."""
        now = self._world.heap.now
        for path in self.paths.all():
            self.paths.close(path.number, now)
        self._world.heap.at(now + self._play.script.timing.path_pause_s, self.ask)
        try:
            self.paths.open_paths([PathTerms(_DESTINATION, HOPS, "uniform")], now)
        except NoSuitablePath:
            return

    # The methods of Anonymous Paths Management that paths need.

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Begin a circuit, which opens if every hop runs, and times out otherwise."""
        self._last += 1
        number = self._last
        numbers = [int.from_bytes(hop.node_id, "big") for hop in path.hops]
        silent = next((i for i, n in enumerate(numbers, 1) if not self._world.is_online(n)), None)
        if silent is None:
            opened = CircuitOpened(number, _INNER, destination)
            self._world.heap.at(now + _SETUP_S, self._settled, opened)
        else:
            failed = CircuitFailed(number, CircuitTimedOut("a hop is gone.", silent_hop=silent))
            self._world.heap.at(now + _SETUP_TIMEOUT_S, self._settled, failed)
        return number

    def close(self, circuit: int, now: float) -> None:
        """Do nothing, because a simulated circuit has no state."""

    def _settled(self, event: CircuitOpened | CircuitFailed, _: object) -> None:
        # Further attempts do not matter, because only first attempts are counted.
        self.paths.handle(event, self._world.heap.now)


class _Play:
    def __init__(self, script: ChurnScript, seed: int) -> None:
        self.script = script
        self.world = _World(script, seed)
        machines = self.world.machines
        ids: list[NodeId] = [machine.node_id for machine in machines]
        self._probing = Probing(script, ids, self.world.streams.stream("probes"))
        self._clients = {number: _Client(self, machines[number]) for number in script.clients}
        self._ledger = CounterTotals()
        self.world.listeners.append(self._told)

    def run(self) -> Measured:
        script, heap = self.script, self.world.heap
        timing = script.timing
        for node in (script.bootstrap, *script.exits, *script.clients, script.prober):
            heap.at(
                START + 0.1 * node, partial(self._switch, Switch(0.1 * node, node, online=True))
            )
        for switch in script.switches:
            heap.at(START + switch.time_s, partial(self._switch, switch))
        heap.at(START + timing.warm_up_s, self._warm)
        heap.at(START + timing.warm_up_s, self._probe)
        for number, client in self._clients.items():
            heap.at(START + timing.warm_up_s + 0.1 * number, client.ask)
        heap.run(START + timing.end_s, lambda: False)
        for node in script.relays:
            self._ledger.end(node, timing.end_s, self._counters(node))
        return self._measured()

    def _switch(self, switch: Switch, *_: object) -> None:
        machine = self.world.machines[switch.node]
        if not switch.online:
            self._ledger.end(switch.node, switch.time_s, self._counters(switch.node))
            self.world.stop(machine)
            return
        node = switch.node
        if node in self.script.relays and switch.time_s >= self.script.timing.warm_up_s:
            sent = {"datagrams": self.world.datagrams[node], "bytes": self.world.bytes[node]}
            self._ledger.begin(node, switch.time_s, sent)
        self.world.start(machine)

    def _warm(self, *_: object) -> None:
        for node in self.script.relays:
            counters = self._counters(node)
            if counters is not None:
                self._ledger.begin(node, self.script.timing.warm_up_s, counters)

    def _probe(self, *_: object) -> None:
        heap, prober = self.world.heap, self.world.machines[self.script.prober]
        heap.at(heap.now + self.script.timing.probe_interval_s, self._probe)
        if prober.dht is not None:
            self._probing.ask(prober.dht, self.world.time_s, heap.now)
            prober.flush()

    def _told(self, machine: Machine, event: DhtEvent) -> None:
        client = self._clients.get(machine.index)
        if client is not None:
            client.told(event)

    def _counters(self, node: int) -> dict[str, int] | None:
        dht = self.world.machines[node].dht
        if dht is None:
            return None
        return {
            "datagrams": self.world.datagrams[node],
            "bytes": self.world.bytes[node],
            "lookups": dht.activity.lookups,
            "lookups succeeded": dht.activity.lookups_succeeded,
        }

    def _measured(self) -> Measured:
        paths = [client.paths for client in self._clients.values()]
        ledger = self._ledger
        return Measured(
            probes=len(self._probing.results),
            probes_found=sum(self._probing.results),
            paths=sum(each.first_tries for each in paths),
            paths_opened=sum(each.opened_at_first_try for each in paths),
            lookups=ledger.total("lookups"),
            lookups_succeeded=ledger.total("lookups succeeded"),
            datagrams_per_s=ledger.rates("datagrams"),
            bytes_per_s=ledger.rates("bytes"),
        )
