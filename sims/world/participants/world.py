"""The simulated world: one clock, one network, and every machine on it.

The world starts and stops nodes and knows which of them are on line. Everything between nodes is
done by the product's cores. Listeners, such as measures and clients, receive the cores' events.

Reasons: docs/decisions/0022.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.admission import source_group
from overlay.dht.core import Dht
from overlay.dht.descriptor import RESIGN_INTERVAL_S, MixDescriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DhtEvent
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from sims.world.engine.heap import EventHeap
from sims.world.engine.keyspace import ID_BITS, KeySpace
from sims.world.engine.network import Network, OneWayDelay
from sims.world.engine.streams import Streams
from sims.world.participants.carriers import DhtMessageCarrier
from sims.world.participants.costs import CryptoCosts
from sims.world.participants.machine import NETWORK_ID, Machine
from sims.world.participants.records import SharedVerifier, signed_descriptor

__all__ = ["NETWORK_ID", "START", "World", "own_core", "own_network"]

START: Final = 1_800_000_000.0
"""Start of every simulation in Unix seconds."""

_FIRST_BLOCK: Final = 11
_PUBLIC_BLOCKS: Final = 89
"""From 11.0.0.0/8 to 99.0.0.0/8 every address is public."""

_EXIT_EVERY: Final = 3
"""One node in three is an exit."""

HeldRecord = tuple[MixDescriptor, bytes]
"""A descriptor that a node stores, and the subnet that it came from."""

Listener = Callable[[Machine, DhtEvent], None]
CoreFactory = Callable[["World", Machine], Dht]


class World:
    """The owner of all machines. ``alive`` has the ids of the nodes on line."""

    def __init__(
        self,
        streams: Streams,
        settings: DhtSettings,
        latency: OneWayDelay,
        carrier: DhtMessageCarrier,
        *,
        loss: float = 0.0,
        costs: CryptoCosts | None = None,
    ) -> None:
        self.streams = streams
        self.settings = settings
        self.carrier = carrier
        self.heap = EventHeap(START)
        self.network = Network(self.heap, latency, streams.stream("network"), loss=loss)
        self.measure = carrier.measure
        self.sending_costs = (costs or CryptoCosts()).of_sending()
        self.verifier = SharedVerifier()
        self.alive = KeySpace()
        self.machines: list[Machine] = []
        self.by_number: dict[int, Machine] = {}
        self.bootstrap: tuple[Endpoint, ...] = ()
        self.listeners: list[Listener] = []
        self.settled: dict[int, Callable[[], None]] = {}
        """By the index of a machine: callbacks for when its cores have nothing to do."""
        self.everybody_crawls = False
        """Whether nodes other than clients crawl."""
        self.make_core: CoreFactory = own_core
        self.denies: Callable[[NodeId], bool] = _never
        """Whether a malicious relay breaks the circuits through it at this moment."""
        self.opening: dict[int, tuple[NodeId, ...]] = {}
        """The hops of circuits that clients open now, by the machine of the client."""

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
        """Switch a machine on: its node signs a descriptor and joins through known peers."""
        dht = self.switched_on(machine)
        now = self.heap.now
        dht.publish(self._sign(machine), now)
        if machine.remembered:
            dht.remember(machine.remembered, now)
        if self.bootstrap:
            dht.bootstrap([peer for peer in self.bootstrap if peer != machine.endpoint], now)
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
        """
        # They began at different times, so they sign anew at different times: together they
        # would send ten times their usual traffic an hour after the start.
        phases = self.streams.stream("equilibrium", "signing")
        for machine in machines:
            self.switched_on(machine, signs_in_s=phases.uniform(0.0, RESIGN_INTERVAL_S))
        rng = self.streams.stream("equilibrium")
        now = self.heap.now
        contacts = [self._ideal_contacts(machine, rng) for machine in machines]
        records = self._laid_out(machines)
        for machine, known in zip(machines, contacts, strict=True):
            if machine.dht is not None and machine.descriptor is not None:
                held = records[machine.number]
                machine.dht.resume(machine.descriptor, known, now, records=held)
        for machine in machines:
            machine.flush()

    def is_online(self, number: int) -> bool:
        """Tell whether the node with this id is on line, honest or not."""
        machine = self.by_number.get(number)
        return machine is not None and machine.dht is not None

    def is_exit(self, machine: Machine) -> bool:
        """Tell whether a machine's node takes the exit role."""
        return machine.index % _EXIT_EVERY == 0

    def on_settled(self, machine: Machine) -> None:
        """Call the callbacks that wait until a machine's cores have nothing to do."""
        listener = self.settled.get(machine.index)
        if listener is not None:
            listener()

    def on_event(self, machine: Machine, event: DhtEvent) -> None:
        """Process the events of a core."""
        for listener in self.listeners:
            listener(machine, event)

    def switched_on(self, machine: Machine, *, signs_in_s: float = RESIGN_INTERVAL_S) -> Dht:
        """Connect a machine, start its core without joining, and return the core.

        Its descriptor is signed again ``signs_in_s`` seconds later.
        """
        self.network.attach(machine)
        dht = self.make_core(self, machine)
        machine.switch_on(dht)
        self.alive.add(machine.number)
        self.network.digest.note(self.heap.now, f"on {machine.index}")
        # The heap holds no core, so that a core is freed as soon as its session ends.
        self.heap.at(self.heap.now + signs_in_s, self._resign, machine, machine.sessions)
        return dht

    # Inside.

    def _sign(self, machine: Machine) -> MixDescriptor:
        exits = self.is_exit(machine)
        return machine.publish(
            signed_descriptor(machine, network_id=NETWORK_ID, exits=exits, now=self.heap.now)
        )

    def _resign(self, machine: Machine, session: int) -> None:
        if machine.dht is None or machine.sessions != session:
            return
        machine.dht.publish(self._sign(machine), self.heap.now)
        machine.flush()
        self.heap.at(self.heap.now + RESIGN_INTERVAL_S, self._resign, machine, session)

    def _ideal_contacts(self, machine: Machine, rng: Random) -> list[Contact]:
        found: list[Contact] = []
        for bit in range(ID_BITS):
            numbers = self.alive.bucket(machine.number, bit, self.settings.k, rng)
            found += [self.by_number[number].contact for number in numbers]
            if len(self.alive.with_prefix(machine.number, bit + 1)) <= 1:
                break
        return found

    def _laid_out(
        self, machines: Sequence[Machine]
    ) -> dict[int, list[tuple[MixDescriptor, bytes]]]:
        """Return, by the id of a holder, the descriptors of machines that it stores."""
        held: dict[int, list[HeldRecord]] = defaultdict(list)
        private = self.settings.limit_private_prefixes
        for machine in machines:
            descriptor = self._sign(machine)
            group = source_group(machine.endpoint, limit_private=private)
            for number in self.alive.closest(machine.number, self.settings.k + 1):
                if number != machine.number:
                    held[number].append((descriptor, group))
        return held


def own_core(
    world: World,
    machine: Machine,
    *,
    crawls: bool | None = None,
    envelopes: Envelopes | None = None,
) -> Dht:
    """Return the core of a machine, an honest one unless ``envelopes`` are given.

    Clients crawl, or all nodes if ``everybody_crawls`` is set, unless ``crawls`` is given.
    """
    if crawls is None:
        crawls = machine.is_client or world.everybody_crawls
    dht = Dht(
        machine.identity,
        network_id=NETWORK_ID,
        settings=world.settings,
        rng=world.streams.stream("core", machine.index, machine.sessions),
        endpoints=(machine.endpoint,),
        envelopes=envelopes or world.carrier.envelopes(machine.identity, NETWORK_ID),
        verify_record=world.verifier,
    )
    if not crawls:
        DhtInspection(dht).disable_crawls()
    return dht


def _never(_node_id: NodeId) -> bool:
    return False


def own_network(index: int) -> Endpoint:
    """Return the address of a machine in a /24 of its own, and in a /16 while they suffice."""
    block, second = divmod(index, 256)
    third, first = divmod(block, _PUBLIC_BLOCKS)
    return Endpoint(f"{_FIRST_BLOCK + first}.{second}.{third}.1", 4500)
