"""Simulated overlays for experiments: the product's nodes on one event heap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from sims.world.engine.collector import patient_collector
from sims.world.engine.keyspace import ID_BITS
from sims.world.engine.streams import Streams
from sims.world.latency import Uniform
from sims.world.participants.carriers import ValueCarrier
from sims.world.participants.machine import Machine
from sims.world.participants.world import World

__all__ = ["bucket_counts", "joined_world", "known_neighbours", "new_world", "pass_time"]

JOIN_SPACING_S: Final = 0.02
_DOUBLING_S: Final = 16.0
"""Interval between joins in a small network; in a large one, as many nodes as it has join in 16 s.

A join takes about 8 s, so half of a growing network is joining at any time. With a constant rate
the periodic tasks of the nodes that have joined would cost more than the joins."""

SETTLE_S: Final = 60.0
"""Time until all nodes have joined and refreshed every bucket, with a wide margin."""

_SETTLE_STEPS: Final = 10
_SMALL: Final = 1000
_KEPT: Final = 3


def new_world(seed: int, settings: DhtSettings) -> World:
    """Return an empty world whose round trips take 100 ms on average."""
    return World(Streams(seed), settings, Uniform(0.025, 0.075), ValueCarrier())


def pass_time(world: World, seconds: float) -> None:
    """Run all events that are due within ``seconds``."""
    world.heap.run(world.heap.now + seconds)


_LAST: list[tuple[tuple[int, int, DhtSettings], World]] = []


def joined_world(
    nodes: int, seed: int, settings: DhtSettings, progress: Callable[[str], None]
) -> World:
    """Return a world whose nodes joined through the first one and refreshed their buckets.

    The latest small worlds are cached for experiments that only read them.
    """
    key = (nodes, seed, settings)
    known = next((world for made, world in _LAST if made == key), None)
    if known is None:
        with patient_collector():
            known = _joined(nodes, seed, settings, progress)
        if nodes <= _SMALL:
            _LAST.append((key, known))
            del _LAST[:-_KEPT]
    return known


def _joined(nodes: int, seed: int, settings: DhtSettings, progress: Callable[[str], None]) -> World:
    world = new_world(seed, settings)
    rendezvous = world.add()
    world.bootstrap = (rendezvous.endpoint,)
    world.start(rendezvous)
    for number in range(1, nodes):
        world.start(world.add())
        pass_time(world, min(JOIN_SPACING_S, _DOUBLING_S / number))
        if number % 500 == 0:
            progress(f"{number} of {nodes} nodes have joined")
    for step in range(_SETTLE_STEPS):
        pass_time(world, SETTLE_S / _SETTLE_STEPS)
        if nodes >= 500:
            progress(f"all {nodes} have joined and settle: {step + 1} of {_SETTLE_STEPS} parts")
    return world


def bucket_counts(machine: Machine) -> dict[int, int]:
    """Return, for each number of leading bits, how many contacts share exactly these bits."""
    counts: dict[int, int] = {}
    for contact in _contacts(machine):
        other = int.from_bytes(contact.node_id, "big")
        bit = ID_BITS - (other ^ machine.number).bit_length()
        counts[bit] = counts.get(bit, 0) + 1
    return counts


def known_neighbours(world: World, machine: Machine) -> int:
    """Return how many of the k living nodes nearest to a node are in its table."""
    k = world.settings.k
    known = {int.from_bytes(contact.node_id, "big") for contact in _contacts(machine)}
    nearest = [n for n in world.alive.closest(machine.number, k + 1) if n != machine.number]
    return sum(number in known for number in nearest[:k])


def _contacts(machine: Machine) -> list[Contact]:
    return machine.inspection.contacts() if machine.inspection is not None else []
