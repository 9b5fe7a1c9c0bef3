"""The anti-replay window of one inbound SA (RFC 4303, sections 2.2.1, 3.4.3 and appendix A2).

Check and advance are apart: a packet is *checked* before it is authenticated, which saves
the decryption of replays, and only an authentic packet *advances* the window, so that a
forged sequence number moves nothing.
"""

from __future__ import annotations

from random import Random
from typing import Final

__all__ = ["MAX_ESN", "MAX_SEQUENCE", "MAX_START", "ReplayWindow", "draw_start"]

MAX_SEQUENCE: Final = 2**32 - 1
"""The last sequence number of an SA without ESN."""

MAX_ESN: Final = 2**64 - 1
"""The last extended sequence number."""

_START_BITS: Final = 31
MAX_START: Final = 2**_START_BITS - 1
"""The greatest number after which an outbound SA begins to count.

A receiver with ESN takes the first packet's high half for 0 only if its low half lies below
2**32 - window (RFC 4303, appendix A2). And half of the 32-bit space must be left without ESN.
"""


def draw_start(rng: Random) -> int:
    """Return the number after which an outbound SA begins to count, from 0 to MAX_START.

    RFC 4303 (section 3.3.3) begins with 1. Layers and links of one circuit are made together and
    count the same packets, so then two relays would know each other's packets by their numbers.
    """
    return rng.getrandbits(_START_BITS)


class ReplayWindow:
    """Which of the last ``size`` sequence numbers have not been seen.

    Bit *i* of the bit map stands for the sequence number ``highest - i`` and is set while
    that is *missing*: without loss the map is 0, whatever the size. After the first packet it is
    -2, an endless row of ones and a 0: all earlier numbers are missing, at no cost in memory.

    A sender's first number may be any up to 2**31: the window's right edge jumps there (RFC 4303,
    section 3.4.3). With ESN a loss of more than 2**32 packets in a row is not recovered from (RFC
    4303, appendix A3 is left out): the link is rekeyed long before.
    """

    __slots__ = ("_esn", "_missing", "_size", "highest")

    def __init__(self, size: int, *, esn: bool) -> None:
        self._size = size
        self._esn = esn
        self._missing = 0
        self.highest = 0

    def check(self, low: int) -> int:
        """Return the full sequence number of a packet that may be new, 0 for any other.

        ``low`` is the packet's sequence number field. With ESN the high half is that which
        puts the number at or after the window's left edge, within 2**32 of it: this is
        appendix A2's case distinction as one residue.
        """
        highest = self.highest
        edge = highest - self._size + 1
        sequence = edge + ((low - edge) & MAX_SEQUENCE) if self._esn else low
        if sequence > highest:
            return sequence if sequence <= MAX_ESN else 0
        if sequence < edge or sequence < 1 or not self._missing >> (highest - sequence) & 1:
            return 0
        return sequence

    def advance(self, sequence: int) -> None:
        """Mark the full sequence number of an authentic packet that :meth:`check` let pass."""
        ahead = sequence - self.highest
        if ahead <= 0:
            self._missing &= ~(1 << -ahead)
            return
        if self.highest == 0:
            self._missing = -2
        elif ahead > 1 or self._missing:
            # Past numbers move left, skipped ones come in as missing, the new one as seen.
            skipped = (1 << min(ahead, self._size)) - 2
            missing = skipped | (self._missing << ahead if ahead < self._size else 0)
            outgrown = missing.bit_length() > self._size
            self._missing = missing & ((1 << self._size) - 1) if outgrown else missing
        self.highest = sequence
