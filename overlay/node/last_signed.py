"""The highest numbers that this node has signed, kept so that the next ones are higher.

A descriptor's sequence number and an initiation's timestamp are times. Other nodes refuse what is
not above the last one. So a clock that is set back must not bring smaller numbers, not even after
a restart: the file ``last_signed.json`` of the state directory remembers the highest ones.
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
"""How far the file is ahead of the timestamps, so that it is written once a second at most."""

_MOST_AHEAD_S: Final = 600.0
"""What peers tolerate of a link's timestamps (``[link] max_clock_skew_s``). They refused one that
was further ahead of the right time, so it need not be exceeded."""

_HEADROOM: Final = 2**32
"""A sequence number this near to the format's highest cannot be continued for long."""


class LastSigned:
    """Draws sequence numbers and timestamps above all that were drawn before, restarts included.

    A file that cannot be read or written costs this promise and nothing else.
    """

    def __init__(self, path: Path, now: float) -> None:
        """Read the file, whose directory belongs to the node's user; ``now`` in Unix seconds."""
        self._path = path
        self._sequence, link_us = _read(path)
        self._told = False
        ahead_us = int((now + _MOST_AHEAD_S) * MICROSECONDS)
        self._link_us = link_us if link_us <= ahead_us else 0
        self.initiations = InitiationClock(self._link_us, self._stamped)

    def next_sequence(self, now: float) -> int:
        """Return the sequence number of a descriptor that is signed now: the time in ms, or more.

        It is on the disk before it is returned.
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
            # Not synchronised with the disk, which may take longer than a link's whole handshake.
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
    """Return what the file holds, zeros if there is none or if it is damaged."""
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
