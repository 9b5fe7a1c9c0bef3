"""One simulated machine: an address, an identity, and the product's core while it is on.

Between two sessions a machine keeps what a real node has on disk: the identity, the sequence
numbers and the known peers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from overlay.addresses import Endpoint, NodeId
from overlay.dht.core import Dht
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.events import DhtEvent
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from overlay.node.node_cores import NodeCores
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.engine.streams import Streams
from sims.world.participants.carriers import RawDatagram
from sims.world.participants.full_node import build_full_node

__all__ = ["NETWORK_ID", "Machine", "MachineWorld"]

NETWORK_ID: Final = "simulation"
MAX_REMEMBERED: Final = 64
_SIGNED_KEPT: Final = 8
"""Number of own descriptors to keep. Fewer can be valid at the same time."""


class MachineWorld(Protocol):
    """What a machine needs of the world that owns it.

    Attributes:
        heap: has the time and calls the machine at its deadlines.
        network: carries datagrams.
        settings: those of the DHT.
        streams: the sources of random numbers.
        measure: returns the size in bytes and the kind of a datagram.
        sending_costs: CPU time in seconds before a datagram is sent, by its kind.
    """

    heap: EventHeap
    network: Network
    settings: DhtSettings
    streams: Streams
    measure: Callable[[bytes], tuple[int, int]]
    sending_costs: tuple[float, ...]

    def is_exit(self, machine: Machine) -> bool:
        """Tell whether the node of a machine has the exit role."""
        ...

    def denies(self, machine: Machine) -> bool:
        """Tell whether a machine drops a packet of a circuit or link, because it is malicious."""
        ...

    def on_event(self, machine: Machine, event: DhtEvent) -> None:
        """Process an event of a machine's DHT core."""
        ...

    def on_settled(self, machine: Machine) -> None:
        """Process that the cores of a machine have nothing more to do at this moment."""
        ...


class Machine:
    """A host on the simulated network, which the world owns."""

    __slots__ = (
        "_free_at",
        "_wake",
        "contact",
        "cores",
        "descriptor",
        "dht",
        "endpoint",
        "honest",
        "identity",
        "index",
        "is_client",
        "number",
        "remembered",
        "sessions",
        "signed",
        "started_at",
        "world",
    )

    def __init__(
        self,
        world: MachineWorld,
        index: int,
        endpoint: Endpoint,
        identity: LocalIdentity,
        *,
        honest: bool,
    ) -> None:
        self.world = world
        self.index = index
        self.endpoint = endpoint
        self.identity = identity
        self.honest = honest
        self.number = int.from_bytes(identity.node_id, "big")
        self.contact = Contact(identity.node_id, endpoint, identity.identity_key)
        self.sessions = 0
        self.is_client = False
        """Whether its node fills a topology table and opens paths."""
        self.dht: Dht | None = None
        self.cores: NodeCores | None = None
        self.signed: deque[bytes] = deque(maxlen=_SIGNED_KEPT)
        self.descriptor: MixDescriptor | None = None
        self.remembered: tuple[Contact, ...] = ()
        self.started_at = math.nan
        self._wake = math.inf
        self._free_at = 0.0

    @property
    def node_id(self) -> NodeId:
        """The id of its node."""
        return self.identity.node_id

    def publish(self, descriptor: MixDescriptor) -> MixDescriptor:
        """Record the descriptor that the node has signed."""
        self.descriptor = descriptor
        self.signed.append(descriptor.encoded)
        return descriptor

    @property
    def online(self) -> bool:
        """Whether its program runs."""
        return self.dht is not None

    @property
    def inspection(self) -> DhtInspection | None:
        """The view of its core, or None while its program does not run."""
        return DhtInspection(self.dht) if self.dht is not None else None

    def switch_on(self, dht: Dht) -> None:
        """Start the node."""
        self.dht = dht
        self.sessions += 1
        self.started_at = self.world.heap.now
        self._wake, self._free_at = math.inf, 0.0

    def switch_off(self) -> None:
        """Stop the node without a message; the stored data stays."""
        if self.dht is not None:
            contacts = DhtInspection(self.dht).contacts()
            spread = contacts[:: -(-len(contacts) // MAX_REMEMBERED) or 1]  # of every bucket some
            self.remembered = tuple(spread) or self.remembered
            self.dht.close(self.world.heap.now)
        self.dht = self.cores = None
        self._wake = math.inf

    def arrived(self, item: tuple[bytes, Endpoint]) -> None:
        """Process one received datagram."""
        dht = self.dht
        if dht is None:
            return
        payload = item[0]
        if isinstance(payload, RawDatagram):
            if not self.honest and self.world.denies(self):
                return
            cores = self.all_cores()
            if cores is not None and not cores.receive(
                ((payload.data, item[1]),), self.world.heap.now
            ):
                return
        else:
            dht.receive((item,), self.world.heap.now)
        self.flush()

    def all_cores(self) -> NodeCores | None:
        """Return all cores, which are built at the first call; None while switched off."""
        if self.cores is None and self.dht is not None:
            world = self.world
            # The name of the stream selects its numbers: another one would change all digests.
            self.cores = build_full_node(
                self.dht,
                self.identity,
                self.endpoint,
                network_id=NETWORK_ID,
                settings=world.settings,
                exits=world.is_exit(self),
                rng=world.streams.stream("plane", self.index, self.sessions),
                send=self._send,
            )
            self.cores.observe_dht(self._tell)
        return self.cores

    def flush(self) -> None:
        """Send the datagrams of the core, report its events, and schedule its next deadline."""
        dht = self.dht
        if dht is None:
            return
        world = self.world
        now = world.heap.now
        cores = self.cores
        if cores is not None:
            cores.settle(now)
            world.on_settled(self)
            deadline = cores.next_deadline()
        else:
            for event in dht.events():
                world.on_event(self, event)
            for datagram, to in dht.datagrams_to_send(now):
                self._send(datagram, to)
            deadline = dht.next_deadline()
        if deadline < self._wake:
            self._wake = deadline
            world.heap.at(deadline, self._awake, self.sessions, deadline)

    def _tell(self, event: DhtEvent, _now: float) -> None:
        self.world.on_event(self, event)

    def _send(self, datagram: bytes, to: Endpoint) -> None:
        """Send a datagram after the CPU time that it costs."""
        world = self.world
        size, kind = world.measure(datagram)
        free, now = self._free_at, world.heap.now
        self._free_at = free = (free if free > now else now) + world.sending_costs[kind]
        world.network.send(self, datagram, to, free, size, kind)

    def _awake(self, session: int, deadline: float) -> None:
        dht = self.dht
        if dht is None or session != self.sessions or deadline != self._wake:
            return  # this deadline is of an earlier session, or it was replaced
        now = self.world.heap.now
        core = self.cores or dht
        due = core.next_deadline()
        if now < due < math.inf and self.cores is None:
            # Most answers arrive in time, and then there is nothing to do at the deadline.
            self._wake = due
            self.world.heap.at(due, self._awake, session, due)
            return
        self._wake = math.inf
        if due <= now:
            core.handle_deadline(now)
        self.flush()
