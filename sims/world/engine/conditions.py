"""The verbs of the in-memory network: delay, drop, duplicate, reorder, corrupt and partition.

A *condition* is a function from one datagram under way (a :class:`Flight`) to the datagrams that
continue: none, one or several. ``Network.impose`` applies it to a line, to a direction of a line
or to all lines, for a time or until ``Network.lift``. Conditions compose, because each gets what
the one before it returned. A test that needs another fault writes another such function.

Verbs take a function that chooses the datagrams they concern. :func:`share` chooses at random
from a generator of its own, so that one more condition does not change the choices of another.
The idea of verbs on lines is that of netem (Linux), of turmoil (Rust) and of the simulator in
neqo's tests.

Reasons: docs/decisions/0065.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from overlay.addresses import Endpoint

__all__ = [
    "Chooser",
    "Condition",
    "Flight",
    "always",
    "corrupt",
    "delay",
    "drop",
    "duplicate",
    "partition",
    "reorder",
    "share",
    "tap",
]


@dataclass(frozen=True, slots=True)
class Flight:
    """One datagram between being sent and its arrival.

    ``sender`` and ``receiver`` are indices of hosts, or ``NOWHERE`` if no host has the address.
    They select the conditions that act. If a condition changes ``source`` or ``to``, it changes
    the index as well if later conditions shall treat the datagram as one of the other line.
    ``extra_s`` is the delay in seconds beyond that of the latency model, and may be negative.
    The network lets no datagram arrive before it was sent.
    """

    datagram: Any
    source: Endpoint
    to: Endpoint
    sender: int
    receiver: int
    extra_s: float = 0.0


Condition = Callable[[Flight], Iterable[Flight]]
"""Returns the datagrams that continue on their way in place of the given one."""

Chooser = Callable[[Flight], bool]
"""Tells whether a verb concerns a datagram."""


def always(_: Flight) -> bool:
    """Choose every datagram."""
    return True


def share(probability: float, rng: Random) -> Chooser:
    """Return a chooser that takes each datagram with this probability, from 0 to 1."""
    return lambda _: rng.random() < probability


def drop(chosen: Chooser = always) -> Condition:
    """Return a condition that loses the chosen datagrams."""
    return lambda flight: () if chosen(flight) else (flight,)


def delay(extra_s: float | Callable[[], float], chosen: Chooser = always) -> Condition:
    """Return a condition that adds a delay in seconds, or one that a function draws for each."""
    draw = extra_s if callable(extra_s) else lambda: extra_s

    def delayed(flight: Flight) -> Sequence[Flight]:
        return (replace(flight, extra_s=flight.extra_s + draw()) if chosen(flight) else flight,)

    return delayed


def duplicate(chosen: Chooser = always, *, copies: int = 1) -> Condition:
    """Return a condition that sends the chosen datagrams and ``copies`` more of each.

    A random latency model draws a delay for each copy.
    """
    return lambda flight: (flight,) * (1 + copies if chosen(flight) else 1)


def reorder(by_s: float, chosen: Chooser) -> Condition:
    """Return a condition that holds the chosen datagrams back by ``by_s`` seconds.

    Datagrams that are sent on the line within that time overtake them, as with ``reorder`` of
    netem.
    """
    return delay(by_s, chosen)


def corrupt(rng: Random, chosen: Chooser = always) -> Condition:
    """Return a condition that inverts one random bit of each chosen datagram.

    Raises:
        TypeError: when it gets a datagram that is not bytes, because values have no bits.
    """

    def damaged(flight: Flight) -> Sequence[Flight]:
        if not chosen(flight):
            return (flight,)
        if not isinstance(flight.datagram, bytes):
            kind = type(flight.datagram).__name__
            raise TypeError(f"Only datagrams of bytes can be corrupted; this one is a {kind}.")
        if not flight.datagram:
            return (flight,)
        changed = bytearray(flight.datagram)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return (replace(flight, datagram=bytes(changed)),)

    return damaged


def partition(sides: Iterable[Iterable[int]]) -> Condition:
    """Return a condition that drops what is sent between hosts (by index) on different sides.

    Hosts that no side names are on a further side together.
    """
    side_of = {index: number for number, side in enumerate(sides, 1) for index in side}
    return drop(lambda flight: side_of.get(flight.sender, 0) != side_of.get(flight.receiver, 0))


def tap(observer: Callable[[Flight], object]) -> Condition:
    """Return a condition that shows each datagram to an observer and changes nothing."""

    def observed(flight: Flight) -> Sequence[Flight]:
        observer(flight)
        return (flight,)

    return observed
