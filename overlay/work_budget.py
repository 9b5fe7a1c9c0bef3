"""What strangers together may make a node compute: CPU seconds in each second.

Bounds on memory do not bound work: a message that is refused in the end has cost a key
exchange or a signature first. This budget is asked before such work begins. It is shared by
all blocks and fair by prefix, because it is a :class:`~overlay.fair_rate.FairRate`: an address gets
at most a ninth of it, a provider a third, and a newcomer something, at every moment. It is
continuous, because a budget of slots is used up by the first sender in each slot.
"""

from __future__ import annotations

import enum
from typing import Final

from overlay.fair_rate import FairRate
from overlay.shares import Groups

__all__ = ["DEFAULT_CPU_SHARE", "Work", "WorkBudget"]

DEFAULT_CPU_SHARE: Final = 0.25
"""Of one core: the smallest machines have one, and packets of circuits need the rest."""


class Work(enum.Enum):
    """Expensive operations that a stranger can cause; values in seconds of one core.

    Measured with ``benchmarks/stranger_work.py`` (0.35, 0.10, 0.12 and 0.13 ms, of which the
    second and third are the key exchanges alone), with what follows, and rounded up.
    """

    HANDSHAKE = 0.0004
    """A link initiation: three X25519, two Ed25519, four AEAD."""
    ONION = 0.0003
    """An onion signalling message: one HPKE, and what a circuit installs."""
    REKEY = 0.00025
    """An offer of new keys: two X25519, four derivations, one SA."""
    SIGNATURE = 0.00015
    """The Ed25519 signature of a DHT message or of a descriptor."""


_HORIZON_S: Final = 1.0
"""What strangers may use at once is the share of a second: honest bursts, as of a source that
builds several circuits, fit into it. With a twentieth of it they did not."""

_LEAST: Final = min(work.value for work in Work) / 10


class WorkBudget:
    """Seconds of CPU time that strangers may still use now.

    Owned by the node and shared by links, circuits and DHT. Remembers the groups of about
    five seconds, at most four for each operation that the budget admits.
    """

    def __init__(self, cpu_share: float = DEFAULT_CPU_SHARE) -> None:
        """Prepare.

        Args:
            cpu_share: CPU seconds in each second, of one core; ``math.inf`` for no bound.
        """
        self._rate = FairRate(cpu_share, _HORIZON_S, _LEAST)
        self.refused = 0

    def spend(self, work: Work, groups: Groups, now: float) -> bool:
        """Take the cost of one operation; False if none is left now for the source.

        Args:
            work: what is about to be computed.
            groups: of whoever asked for it, narrowest first.
            now: seconds; a clock that jumps back gives nothing, and none that jumps ahead more
                than the budget of a second.
        """
        if not self._rate.take(groups, now, work.value):
            self.refused += 1
            return False
        return True
