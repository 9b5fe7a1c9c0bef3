"""What strangers together may make a node compute: CPU seconds in each second.

Bounds on memory do not bound work: a message that is refused in the end has cost a key
exchange or a signature first. This budget is asked before such work begins. It is shared by
all blocks and fair by prefix, because its ledger is that of :mod:`overlay.shares`: within one
second an address gets at most a ninth of it, a provider a third, and a newcomer something.
"""

from __future__ import annotations

import enum
from typing import Final

from overlay.shares import Groups, Ledger

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


class WorkBudget:
    """Seconds of CPU time that strangers may still use in this second.

    Owned by the node and shared by links, circuits and DHT. Remembers the groups of one
    second, at most three for each operation that the budget admits.
    """

    def __init__(self, cpu_share: float = DEFAULT_CPU_SHARE) -> None:
        """Prepare.

        Args:
            cpu_share: CPU seconds in each second, of one core; ``math.inf`` for no bound.
        """
        self._ledger = Ledger(cpu_share)
        self._second: int | None = None
        self.refused = 0

    def spend(self, work: Work, groups: Groups, now: float) -> bool:
        """Take the cost of one operation; False if this second has none left for the source.

        Args:
            work: what is about to be computed.
            groups: of whoever asked for it, narrowest first.
            now: seconds.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            self._ledger.clear()
        if not self._ledger.admits(groups, work.value):
            self.refused += 1
            return False
        self._ledger.take(groups, work.value)
        return True
