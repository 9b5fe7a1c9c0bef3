"""Simulated overlays for experiments: the product's nodes on one event heap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.dht.settings import DhtSettings
from sims.engine.collector import patient_collector
from sims.engine.keyspace import ID_BITS
from sims.engine.streams import Streams
from sims.latency import Uniform
from sims.participants.carriers import ValueCarrier
from sims.participants.machine import Machine
from sims.participants.world import World

__all__ = ["bucket_counts", "joined_world", "known_neighbours", "new_world", "pass_time"]

JOIN_SPACING_S: Final = 0.02
_DOUBLING_S: Final = 16.0
"""Nodes join 20 ms apart, and in a large network as many as it has within 16 s: a join takes about
eight, so half of the network is joining at any time. Were the rate constant, the chores of those
who have joined would outgrow the joins."""

SETTLE_S: Final = 60.0
"""A join, with one refresh of every bucket, is over well before."""

_SETTLE_STEPS: Final = 10
_SMALL: Final = 1000
_KEPT: Final = 3


def new_world(seed: int, settings: DhtSettings) -> World:
    """Return an empty world whose round trips take 100 ms on average."""
    return World(Streams(seed), settings, Uniform(0.025, 0.075), ValueCarrier())


def pass_time(world: World, seconds: float) -> None:
    """Let everything happen that is due within so many seconds."""
    world.heap.run(world.heap.now + seconds)


_LAST: list[tuple[tuple[int, int, DhtSettings], World]] = []


def joined_world(
    nodes: int, seed: int, settings: DhtSettings, progress: Callable[[str], None]
) -> World:
    """Return a world whose nodes all joined through the first one and refreshed their buckets.

    The last few small ones are kept, for experiments that only look at them.
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
    """Return how many contacts share exactly so many leading bits with a node."""
    counts: dict[int, int] = {}
    for contact in machine.dht.table if machine.dht is not None else ():
        other = int.from_bytes(contact.node_id, "big")
        bit = ID_BITS - (other ^ machine.number).bit_length()
        counts[bit] = counts.get(bit, 0) + 1
    return counts


def known_neighbours(world: World, machine: Machine) -> int:
    """Return how many of the k living nodes nearest to a node are in its table."""
    k = world.settings.k
    table = machine.dht.table if machine.dht is not None else []
    known = {int.from_bytes(contact.node_id, "big") for contact in table}
    nearest = [n for n in world.alive.closest(machine.number, k + 1) if n != machine.number]
    return sum(number in known for number in nearest[:k])
