"""The interfaces between a world and its adversary, population and clients.

Each is an argument of :class:`sims.world.participants.world.World`: a callable that gets the world
and returns an object with the methods below. A class that derives from one of these protocols
inherits their default methods, which are those of a world without an adversary, with machines that
the calling program switches on and off, and without clients.

Reasons: docs/decisions/0064.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from overlay.addresses import NodeId
from overlay.dht.envelope import Envelopes
from sims.world.participants.machine import Machine

__all__ = [
    "Clients",
    "ManualPopulation",
    "NoAdversary",
    "NoClients",
    "Population",
    "ScheduledPopulation",
    "WatchedClient",
    "WorldAdversary",
]

_EXIT_EVERY: Final = 3
"""One node in three is an exit."""


class WorldAdversary(Protocol):
    """What malicious machines do. They run the product's cores as all others do."""

    def begin(self, victim: Machine) -> None:
        """Add the adversary's own machines at the start of a run; ``victim`` may be attacked."""

    def envelopes(self, machine: Machine, honest: Envelopes) -> Envelopes:  # noqa: ARG002 - for subclasses
        """Return what makes and reads the datagrams of a malicious machine that starts now.

        ``honest`` are the envelopes of an honest machine. Envelopes that change replies or refuse
        requests make the machine malicious, without a hook in the product.
        """
        return honest

    def denies(self, node_id: NodeId) -> bool:  # noqa: ARG002 - likewise
        """Tell whether a malicious node drops a packet of a circuit or link at this moment."""
        return False

    @property
    def target(self) -> Machine | None:
        """The machine whose record is attacked. Measures report its lookups apart."""
        return None

    @property
    def sybils(self) -> Sequence[Machine]:
        """Machines whose places in honest routing tables are measured."""
        return ()


class Population(Protocol):
    """What the node of each machine does."""

    def is_exit(self, machine: Machine) -> bool:
        """Tell whether the node of a machine has the exit role: by default one in three."""
        return machine.index % _EXIT_EVERY == 0

    def crawls(self, machine: Machine) -> bool:
        """Tell whether the node of a machine crawls: by default that of a client."""
        return machine.is_client

    def publishes(self, machine: Machine) -> bool:  # noqa: ARG002 - for subclasses
        """Tell whether the node of a machine publishes a descriptor: by default it does."""
        return True


class ScheduledPopulation(Population, Protocol):
    """A population that adds its machines when it is built, and switches them on and off.

    It calls ``World.on_switch`` for each machine that starts or stops, so that measures follow.

    Attributes:
        rendezvous: the machine through which all others join.
    """

    rendezvous: Machine

    def begin(self) -> None:
        """Switch machines on at the start of a run, and schedule later changes."""
        ...

    def is_newcomer(self, machine: Machine) -> bool:  # noqa: ARG002 - for subclasses
        """Tell whether a machine was added after the start of the run."""
        return False


class WatchedClient(Protocol):
    """A client whose topology table and path are measured."""

    @property
    def machine(self) -> Machine:
        """The machine of the client."""
        ...

    @property
    def table_numbers(self) -> set[int]:
        """The ids of the nodes in its topology table, as numbers."""
        ...

    @property
    def works(self) -> bool:
        """Whether its path is open and all Mix-nodes of the path are on line."""
        ...


class Clients(Protocol):
    """The machines of a world that open circuits."""

    @property
    def watched(self) -> Sequence[WatchedClient]:
        """The clients that are measured."""
        return ()

    @property
    def opening(self) -> Mapping[int, Sequence[NodeId]]:
        """The hops of circuits that are being opened, by the index of the client's machine."""
        return {}

    def begin(self, after_s: float) -> None:
        """Schedule the first requests, in seconds from now."""

    def settled(self, machine: Machine) -> None:
        """Process the state of a machine whose cores have nothing more to do at this moment."""

    def left(self, machine: Machine) -> None:
        """Process that a machine went off line, so that circuits through it have ended."""


class NoAdversary(WorldAdversary):
    """All machines are honest, or behave so."""

    def __init__(self, world: object) -> None:
        """Take the world, which is not needed."""


class ManualPopulation(Population):
    """The calling program adds machines and switches them on and off."""

    def __init__(self, world: object) -> None:
        """Take the world, which is not needed."""


class NoClients(Clients):
    """No machine opens a circuit."""

    def __init__(self, world: object) -> None:
        """Take the world, which is not needed."""
