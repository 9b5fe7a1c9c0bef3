"""Find out whether a circuit carries large packets, with padded messages to its exit (RFC 8899).

A packet of a path of three hops exceeds links of 1,500 bytes. A backend that cannot send pieces
inside a link sends it in IP fragments there, which some lines drop. So the source asks first. One
answer of the same size tests every line of the circuit in both directions::

    unknown --probe .. answer--> proved --probe that says so--> the exit sends large answers too
       ^                           |  every CONFIRM_S: another probe
       '-- three without answer ---'  --> a short probe, which takes the permission back

Reasons: docs/decisions/0054.
"""

from __future__ import annotations

from random import Random
from typing import Final

from overlay.apm.control import (
    CONTROL_BYTES,
    ECHO_BYTES,
    PROBE_HEADER_BYTES,
    SizeProbe,
    SizeProbed,
)

__all__ = ["CONFIRM_S", "CircuitSizeSearch"]

CONFIRM_S: Final = 20.0
"""Seconds between the confirmations of a proved size. Links confirm theirs as often."""

_RETRY_S: Final = 60.0
"""Seconds until a size that has failed is probed again, because chance may have lost the probes."""

_ANSWER_S: Final = 2.0
"""Seconds to wait for an answer; more than the round trip of a slow path."""

_MAX_PROBES: Final = 3
"""MAX_PROBES (RFC 8899, section 5.1.2): a size has failed after so many lost probes in a row."""


class CircuitSizeSearch:
    """The search of one circuit, without I/O; times in seconds of one clock.

    Attributes:
        proved: whether the last probes were answered.
        deadline: when :meth:`probes` must be called next.
    """

    __slots__ = ("_sent", "_size", "deadline", "proved")

    def __init__(self, packet_bytes: int, now: float) -> None:
        """Begin at ``now`` to search for inner packets of ``packet_bytes`` bytes."""
        self._size = packet_bytes - PROBE_HEADER_BYTES
        self._sent: list[bytes] = []
        self.proved = False
        self.deadline = now

    @property
    def proved_bytes(self) -> int | None:
        """The size in bytes of inner packets that pass, None if it is not proved now."""
        return self._size + PROBE_HEADER_BYTES if self.proved else None

    def probes(self, rng: Random, now: float) -> list[SizeProbe]:
        """Return the messages to send now, if any."""
        if now < self.deadline:
            return []
        if len(self._sent) < _MAX_PROBES:
            self.deadline = now + _ANSWER_S
            echo = rng.randbytes(ECHO_BYTES)
            self._sent.append(echo)
            return [SizeProbe(echo, self.proved, self._size)]
        self._sent.clear()
        self.deadline = now + _RETRY_S
        was_proved, self.proved = self.proved, False
        if not was_proved:
            return []
        return [SizeProbe(rng.randbytes(ECHO_BYTES), is_proved=False, size=CONTROL_BYTES)]

    def answered(self, probed: SizeProbed, now: float) -> bool:
        """Process an answer; return False if it answers none of the last probes."""
        if probed.size != self._size or probed.echo not in self._sent:
            return False
        self._sent.clear()
        # The first answer is followed by a probe at once, because the exit must learn of it.
        self.deadline = now + CONFIRM_S if self.proved else now
        self.proved = True
        return True
