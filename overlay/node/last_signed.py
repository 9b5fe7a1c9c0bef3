"""Store the highest numbers that this node has signed, so that later ones are higher.

The sequence number of a descriptor and the timestamp of a link initiation are times. Other nodes
refuse a number that is not above the last one. The numbers must therefore grow even if the clock is
set back or the node restarts. The file ``last_signed.json`` in the state directory has the highest
ones. Source: docs/decisions/0058.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from overlay.dht.descriptor import MAX_SEQUENCE
from overlay.link.replay import MICROSECONDS, InitiationClock
from overlay.logs import EventLog

__all__ = ["LastSigned"]

_log = EventLog(__name__)

_MAX_FILE_BYTES: Final = 4096
_RESERVED_US: Final = MICROSECONDS
"""How far the stored timestamp is ahead: 1 s, so that the file is written once a second at most."""

_MOST_AHEAD_S: Final = 600.0
"""The clock skew that peers tolerate (``[link] max_clock_skew_s``). A stored timestamp that is
further ahead is ignored, because peers refused it."""

_HEADROOM: Final = 2**32
"""Sequence numbers this close to the maximum of the format are ignored as damaged, because they
leave too few numbers above them."""


class LastSigned:
    """Draw sequence numbers and timestamps above all earlier ones, including earlier processes.

    If the file cannot be read or written, only the numbers of earlier processes are lost.
    """

    def __init__(self, path: Path, now: float) -> None:
        """Read the file; only the node's user may write its directory. ``now`` is Unix seconds."""
        self._path = path
        self._sequence, link_us = _read(path)
        self._told = False
        ahead_us = int((now + _MOST_AHEAD_S) * MICROSECONDS)
        self._link_us = link_us if link_us <= ahead_us else 0
        self.initiations = InitiationClock(self._link_us, self._stamped)

    def next_sequence(self, now: float) -> int:
        """Return the sequence number for a new descriptor: Unix milliseconds, or more.

        The file is written before the number is returned.
        """
        self._sequence = max(int(now * 1000), self._sequence + 1)
        self._write()
        return self._sequence

    def _stamped(self, timestamp_us: int) -> None:
        if timestamp_us > self._link_us:
            self._link_us = timestamp_us + _RESERVED_US
            self._write()

    def _write(self) -> None:
        data = json.dumps({"sequence": self._sequence, "link_us": self._link_us}).encode()
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            # No fsync, because it may take longer than a whole link handshake.
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(data)
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not self._told:
                _log.warning("signed.not_remembered")
            self._told = True


def _read(path: Path) -> tuple[int, int]:
    """Return the sequence number and timestamp of the file; zeros if it is missing or damaged."""
    # O_NONBLOCK: opening a named pipe must not block the node.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return 0, 0
            content = json.loads(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return 0, 0
    if not isinstance(content, dict):
        return 0, 0
    sequence, link_us = content.get("sequence"), content.get("link_us")
    if type(sequence) is not int or type(link_us) is not int:
        return 0, 0
    if not 0 <= sequence <= MAX_SEQUENCE - _HEADROOM or link_us < 0:
        return 0, 0
    return sequence, link_us
