"""Limit the CPU time of expensive operations for unauthenticated senders.

Limits on memory do not limit work, because a message that is refused in the end has already cost a
key exchange or a signature. This budget is checked before such work begins. All blocks share it. It
is a :class:`~overlay.fair_rate.FairRate`: an address gets at most a ninth of it, a provider a
third, and a new sender always gets a part. It is continuous, because the first sender in each slot
would use up a budget of slots.
"""

from __future__ import annotations

import enum
from typing import Final

from overlay.fair_rate import FairRate
from overlay.shares import Groups

__all__ = ["DEFAULT_CPU_SHARE", "Work", "WorkBudget"]

DEFAULT_CPU_SHARE: Final = 0.25
"""A fraction of one core. The smallest machines have one core, and packets of circuits need the
rest."""


class Work(enum.Enum):
    """Expensive operations that an unauthenticated sender can cause; values in seconds of one core.

    ``benchmarks/stranger_work.py`` measured 0.35, 0.10, 0.12 and 0.13 ms. The second and the third
    are only the key exchanges. The values here include the work that follows, and are rounded up.
    """

    HANDSHAKE = 0.0004
    """A link initiation: three X25519, two Ed25519, four AEAD."""
    ONION = 0.0003
    """An onion signalling message: one HPKE, and the installation of a circuit."""
    REKEY = 0.00025
    """An offer of new keys: two X25519, four derivations, one SA."""
    SIGNATURE = 0.00015
    """The Ed25519 signature of a DHT message or of a descriptor."""


_HORIZON_S: Final = 1.0
"""The share of one second may be used at once, so that honest bursts fit into it, for example of a
source that opens several circuits. With a twentieth of it they did not."""

_LEAST: Final = min(work.value for work in Work) / 10


class WorkBudget:
    """The CPU time that unauthenticated senders may still use now.

    The node owns it, and links, circuits and the DHT share it. It stores the groups of about five
    seconds, at most four for each operation that the budget admits.
    """

    def __init__(self, cpu_share: float = DEFAULT_CPU_SHARE) -> None:
        """Prepare.

        Args:
            cpu_share: CPU seconds of one core per second; ``math.inf`` for no limit.
        """
        self._rate = FairRate(cpu_share, _HORIZON_S, _LEAST)
        self.refused = 0

    def spend(self, work: Work, groups: Groups, now: float) -> bool:
        """Take the cost of one operation; return False if the sender's share is used up.

        Args:
            work: the operation that is about to be done.
            groups: groups of the sender's address, narrowest first.
            now: Unix seconds. A step back of the clock frees nothing, and a step ahead at most the
                budget of one second.
        """
        if not self._rate.take(groups, now, work.value):
            self.refused += 1
            return False
        return True
