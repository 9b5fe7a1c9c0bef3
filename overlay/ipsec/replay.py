"""The anti-replay window of one inbound SA (RFC 4303, sections 2.2.1, 3.4.3 and appendix A2).

Check and advance are apart: a packet is *checked* before it is authenticated, which saves
the decryption of replays, and only an authentic packet *advances* the window, so that a
forged sequence number moves nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_ESN", "MAX_SEQUENCE", "ReplayWindow"]

MAX_SEQUENCE: Final = 2**32 - 1
"""The last sequence number of an SA without ESN."""

MAX_ESN: Final = 2**64 - 1
"""The last extended sequence number."""


class ReplayWindow:
    """Which of the last ``size`` sequence numbers have not been seen.

    Bit *i* of the bit map stands for the sequence number ``highest - i`` and is set while
    that is *missing*: without loss the map is 0, whatever the size. Numbers start at 1. With
    ESN a loss of more than 2**32 packets in a row is not recovered from (RFC 4303, appendix
    A3 is left out): the link is rekeyed long before.
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
        self.highest = sequence
        if ahead > 1 or self._missing:
            # Past numbers move left, skipped ones come in as missing, the new one as seen.
            skipped = (1 << min(ahead, self._size)) - 2
            moved = self._missing << ahead if ahead < self._size else 0
            self._missing = (moved | skipped) & ((1 << self._size) - 1)
