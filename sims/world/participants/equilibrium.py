"""Ideal routing tables and stored records of nodes that have been members for a long time.

Reasons: docs/decisions/0021.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from random import Random

from overlay.dht.admission import source_group
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from sims.world.engine.keyspace import ID_BITS, KeySpace
from sims.world.participants.machine import Machine

__all__ = ["HeldRecord", "held_records", "ideal_contacts"]

HeldRecord = tuple[MixDescriptor, bytes]
"""A descriptor that a node stores, and the subnet that it came from."""


def ideal_contacts(
    machine: Machine, alive: KeySpace, by_number: Mapping[int, Machine], k: int, rng: Random
) -> list[Contact]:
    """Return ``k`` random nodes on line of every bucket's range, or all if there are fewer."""
    found: list[Contact] = []
    for bit in range(ID_BITS):
        numbers = alive.bucket(machine.number, bit, k, rng)
        found += [by_number[number].contact for number in numbers]
        if len(alive.with_prefix(machine.number, bit + 1)) <= 1:
            break
    return found


def held_records(
    signed: Iterable[tuple[Machine, MixDescriptor]], alive: KeySpace, settings: DhtSettings
) -> dict[int, list[HeldRecord]]:
    """Return, by the id of a holder, the descriptors that it stores.

    The ``k`` nodes on line nearest to a machine hold its descriptor.
    """
    held: dict[int, list[HeldRecord]] = defaultdict(list)
    for machine, descriptor in signed:
        group = source_group(machine.endpoint, limit_private=settings.limit_private_prefixes)
        for number in alive.closest(machine.number, settings.k + 1):
            if number != machine.number:
                held[number].append((descriptor, group))
    return held
