"""The simulated world: one clock, one network, and every machine on it.

The world starts and stops nodes and knows which of them are on line. Everything between nodes is
done by the product's cores. Listeners, such as measures, receive the cores' events. What malicious
machines do, which machines there are, and which open circuits are arguments of the world
(``sims.world.participants.protocols``).

Reasons: docs/decisions/0022 and 0064.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.descriptor import RESIGN_INTERVAL_S, MixDescriptor
from overlay.dht.events import DhtEvent
from overlay.dht.inspection import DhtInspection
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from sims.world.engine.heap import EventHeap
from sims.world.engine.keyspace import KeySpace
from sims.world.engine.network import Network, OneWayDelay
from sims.world.engine.streams import Streams
from sims.world.participants.carriers import DhtMessageCarrier
from sims.world.participants.costs import CryptoCosts
from sims.world.participants.equilibrium import held_records, ideal_contacts
from sims.world.participants.machine import NETWORK_ID, Machine
from sims.world.participants.protocols import (
    Clients,
    ManualPopulation,
    NoAdversary,
    NoClients,
    Population,
    WorldAdversary,
)
from sims.world.participants.records import SharedVerifier, signed_descriptor

__all__ = ["NETWORK_ID", "START", "World", "own_network"]

START: Final = 1_800_000_000.0
"""Start of every simulation in Unix seconds."""

_FIRST_BLOCK: Final = 11
_PUBLIC_BLOCKS: Final = 89
"""From 11.0.0.0/8 to 99.0.0.0/8 every address is public."""

Listener = Callable[[Machine, DhtEvent], None]

OnSwitch = Callable[[Machine, bool, bool], None]
"""Called with a machine, whether it is now on line, and whether its session began in the run."""


class World:
    """The owner of all machines. ``alive`` has the ids of the nodes on line.

    Args:
        streams: the sources of random numbers, by name.
        settings: those of the DHT of all nodes.
        latency: one-way delays between machines.
        carrier: the form of DHT messages.
        adversary: is called with the world and returns what malicious machines do.
        population: is called with the world and returns which machines there are.
        clients: is called with the world and returns the machines that open circuits.
        loss: fraction of datagrams that are lost, from 0 to 1.
        costs: CPU time of cryptography.
    """

    def __init__(
        self,
        streams: Streams,
        settings: DhtSettings,
        latency: OneWayDelay,
        carrier: DhtMessageCarrier,
        *,
        adversary: Callable[[World], WorldAdversary] = NoAdversary,
        population: Callable[[World], Population] = ManualPopulation,
        clients: Callable[[World], Clients] = NoClients,
        loss: float = 0.0,
        costs: CryptoCosts | None = None,
    ) -> None:
        self.streams = streams
        self.settings = settings
        self.carrier = carrier
        self.heap = EventHeap(START)
        self.network = Network(self.heap, latency, streams.stream("network"), loss=loss)
        self.measure: Callable[[bytes], tuple[int, int]] = carrier.measure
        self.sending_costs = (costs or CryptoCosts()).of_sending()
        self.verifier = SharedVerifier()
        self.alive = KeySpace()
        self.machines: list[Machine] = []
        self.by_number: dict[int, Machine] = {}
        self.bootstrap: tuple[Endpoint, ...] = ()
        self.listeners: list[Listener] = []
        self.switch_listeners: list[OnSwitch] = []
        """Are called for the switches that the population schedules."""
        self.adversary = adversary(self)
        self.population = population(self)
        self.clients = clients(self)

    @property
    def time_s(self) -> float:
        """Seconds since the start."""
        return self.heap.now - START

    # Machines.

    def add(
        self,
        endpoint: Endpoint | None = None,
        *,
        honest: bool = True,
        identity: LocalIdentity | None = None,
    ) -> Machine:
        """Add a machine that is switched off; by default it has a /24 of its own."""
        index = len(self.machines)
        identity = identity or LocalIdentity.generate(self.streams.stream("identity", index))
        machine = Machine(self, index, endpoint or own_network(index), identity, honest=honest)
        self.machines.append(machine)
        self.by_number[machine.number] = machine
        return machine

    def start(self, machine: Machine) -> None:
        """Switch a machine on: its node signs a descriptor and joins through known peers.

        A node that publishes no descriptor joins as well.
        """
        dht = self._switched_on(machine)
        now = self.heap.now
        if self.population.publishes(machine):
            dht.publish(self._sign(machine), now)
        if machine.remembered:
            dht.remember(machine.remembered, now)
        self._greet(machine, dht)
        machine.flush()

    def stop(self, machine: Machine, *, goodbye: bool = False) -> None:
        """Switch a machine off, without a message or with LEAVE messages (a clean stop)."""
        if machine.dht is None:
            return
        if goodbye:
            machine.dht.leave(self.heap.now)
            machine.flush()
        machine.switch_off()
        self.network.crash(machine)
        self.alive.discard(machine.number)
        self.network.digest.note(self.heap.now, f"off {machine.index}")

    def resume(self, machines: Sequence[Machine]) -> None:
        """Switch machines on as if they had been members for a long time.

        Tables are filled from the population: k random nodes on line from the range of every
        bucket, or all if there are fewer. The k nearest nodes have each descriptor. At first no
        table has departed contacts; their number reaches its normal level in the warm-up.
        A node that publishes no descriptor joins through the bootstrap peers instead.
        """
        # They began at different times, so they sign anew at different times: together they
        # would send ten times their usual traffic an hour after the start.
        phases = self.streams.stream("equilibrium", "signing")
        for machine in machines:
            self._switched_on(machine, signs_in_s=phases.uniform(0.0, RESIGN_INTERVAL_S))
        rng = self.streams.stream("equilibrium")
        now = self.heap.now
        contacts = [
            ideal_contacts(machine, self.alive, self.by_number, self.settings.k, rng)
            for machine in machines
        ]
        signed = [
            (machine, self._sign(machine))
            for machine in machines
            if self.population.publishes(machine)
        ]
        records = held_records(signed, self.alive, self.settings)
        for machine, known in zip(machines, contacts, strict=True):
            if machine.dht is None:
                continue
            if machine.descriptor is None:
                self._greet(machine, machine.dht)
            else:
                held = records.get(machine.number, [])
                machine.dht.resume(machine.descriptor, known, now, records=held)
        for machine in machines:
            machine.flush()

    def is_online(self, number: int) -> bool:
        """Tell whether the node with this id is on line, honest or not."""
        machine = self.by_number.get(number)
        return machine is not None and machine.dht is not None

    def is_exit(self, machine: Machine) -> bool:
        """Tell whether a machine's node has the exit role."""
        return self.population.is_exit(machine)

    def denies(self, machine: Machine) -> bool:
        """Tell whether a malicious machine drops a packet of a circuit or link now."""
        return self.adversary.denies(machine.node_id)

    def on_settled(self, machine: Machine) -> None:
        """Inform the clients that a machine's cores have nothing more to do at this moment."""
        self.clients.settled(machine)

    def on_switch(self, machine: Machine, *, online: bool, seen_whole: bool) -> None:
        """Inform the listeners of a switch that the population has scheduled.

        ``seen_whole`` is False for a session that began before the run.
        """
        for listener in self.switch_listeners:
            listener(machine, online, seen_whole)

    def on_event(self, machine: Machine, event: DhtEvent) -> None:
        """Inform the listeners of an event of a machine's DHT core."""
        for listener in self.listeners:
            listener(machine, event)

    # Inside.

    def _switched_on(self, machine: Machine, *, signs_in_s: float = RESIGN_INTERVAL_S) -> Dht:
        self.network.attach(machine)
        dht = self._core(machine)
        machine.switch_on(dht)
        self.alive.add(machine.number)
        self.network.digest.note(self.heap.now, f"on {machine.index}")
        # The heap holds no core, so that a core is freed as soon as its session ends.
        self.heap.at(self.heap.now + signs_in_s, self._resign, machine, machine.sessions)
        return dht

    def _greet(self, machine: Machine, dht: Dht) -> None:
        if self.bootstrap:
            peers = [peer for peer in self.bootstrap if peer != machine.endpoint]
            dht.bootstrap(peers, self.heap.now)

    def _core(self, machine: Machine) -> Dht:
        envelopes = self.carrier.envelopes(machine.identity, NETWORK_ID)
        if not machine.honest:
            envelopes = self.adversary.envelopes(machine, envelopes)
        dht = Dht(
            machine.identity,
            network_id=NETWORK_ID,
            settings=self.settings,
            rng=self.streams.stream("core", machine.index, machine.sessions),
            endpoints=(machine.endpoint,),
            envelopes=envelopes,
            verify_record=self.verifier,
        )
        if not self.population.crawls(machine):
            DhtInspection(dht).disable_crawls()
        return dht

    def _sign(self, machine: Machine) -> MixDescriptor:
        exits = self.is_exit(machine)
        return machine.publish(
            signed_descriptor(machine, network_id=NETWORK_ID, exits=exits, now=self.heap.now)
        )

    def _resign(self, machine: Machine, session: int) -> None:
        if machine.dht is None or machine.sessions != session:
            return
        if not self.population.publishes(machine):
            return
        machine.dht.publish(self._sign(machine), self.heap.now)
        machine.flush()
        self.heap.at(self.heap.now + RESIGN_INTERVAL_S, self._resign, machine, session)


def own_network(index: int) -> Endpoint:
    """Return the address of a machine in a /24 of its own, and in a /16 while they suffice."""
    block, second = divmod(index, 256)
    third, first = divmod(block, _PUBLIC_BLOCKS)
    return Endpoint(f"{_FIRST_BLOCK + first}.{second}.{third}.1", 4500)
