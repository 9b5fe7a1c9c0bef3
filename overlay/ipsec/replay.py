"""The anti-replay window of one inbound SA (RFC 4303, sections 2.2.1, 3.4.3 and appendix A2).

Check and advance are separate steps. A packet is *checked* before it is authenticated, so that
replays cost no decryption. Only an authentic packet *advances* the window, so that a forged
sequence number cannot move it.
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
"""The largest number after which an outbound SA begins to count.

A receiver with ESN assumes a high half of 0 for the first packet only if its low half is below
2**32 - window (RFC 4303, appendix A2). Without ESN, half of the 32-bit numbers remain for use.
"""


def draw_start(rng: Random) -> int:
    """Return a random number from 0 to ``MAX_START``, after which an outbound SA begins to count.

    RFC 4303 (section 3.3.3) begins with 1. But the SAs of one circuit are made together and count
    the same packets, so two relays could link their packets by equal sequence numbers.
    """
    return rng.getrandbits(_START_BITS)


class ReplayWindow:
    """The set of sequence numbers, among the last ``size``, that have not been received.

    Bit *i* of the bit map is set while the number ``highest - i`` is *missing*. So without loss
    the map is 0 and needs no memory. After the first packet the map is -2 (all bits except bit 0
    are set), because all earlier numbers are missing.

    The first number may be any up to 2**31; the right edge of the window moves there (RFC 4303,
    section 3.4.3). With ESN the window does not recover from the loss of 2**32 packets in a row
    (RFC 4303, appendix A3 is not implemented), because the SA is rekeyed long before.
    """

    __slots__ = ("_esn", "_missing", "_size", "highest")

    def __init__(self, size: int, *, esn: bool) -> None:
        self._size = size
        self._esn = esn
        self._missing = 0
        self.highest = 0

    def check(self, low: int) -> int:
        """Return the full sequence number if the packet may be new, otherwise 0.

        ``low`` is the sequence number field of the packet. With ESN the full number is the only
        one with this low half from the left edge of the window to 2**32 - 1 after it. This is
        equivalent to the cases of RFC 4303, appendix A2.
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
        """Mark a sequence number from :meth:`check` as received, after authentication."""
        ahead = sequence - self.highest
        if ahead <= 0:
            self._missing &= ~(1 << -ahead)
            return
        if self.highest == 0:
            self._missing = -2  # see the class: only bit 0, the number itself, is received
        elif ahead > 1 or self._missing:
            # Shift the earlier numbers; skipped ones are missing and the new one is received.
            skipped = (1 << min(ahead, self._size)) - 2
            missing = skipped | (self._missing << ahead if ahead < self._size else 0)
            outgrown = missing.bit_length() > self._size
            self._missing = missing & ((1 << self._size) - 1) if outgrown else missing
        self.highest = sequence
