"""Log events with fields in which no peer, destination or key is named, at a bounded rate.

An attacker that obtains the logs must not learn from them which nodes and users communicated. An
event is a constant name with fields, printed as ``name field=value ...``. Values are printed only
if they cannot name a peer, a destination or a key. These are numbers, truth values, members of
enums, and constants wrapped in :class:`Word`. Every other value is printed as ``[scrubbed]``, so
that a careless call reveals nothing. Lines about one circuit have its process-local number
(``circuit=7``), which has no meaning outside of the process.

::

    EventLog ──record──> logger ──> [peers' share bounded] ──> [addresses scrubbed] ──> stderr
    kademlia, rpcudp, pyroute2, asyncio ──x  (they print peers' addresses, even at WARNING)
"""

from __future__ import annotations

import enum
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Final, TextIO

from overlay.sensitive import SCRUBBED

__all__ = [
    "FOREIGN_LOGGERS",
    "LEVELS",
    "EventLog",
    "PeerTriggeredFilter",
    "ScrubbingFormatter",
    "Word",
    "configure_logging",
    "silence_loggers",
]

FOREIGN_LOGGERS: Final = ("kademlia", "rpcudp", "pyroute2", "asyncio")

LEVELS: Final[Mapping[str, int]] = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}

_OFF: Final = logging.CRITICAL + 1
_ROOT: Final = "overlay"
_PEER_TRIGGERED: Final = "peer_triggered"
_EVENT: Final = "event"

_PEERS_BURST: Final = 5
_PEERS_PERIOD_S: Final = 60.0
"""Peers can cause five lines of one event, then one a minute, so that they cannot fill a log."""

_MAX_EVENTS: Final = 1024
"""Event names are constants; the limit applies if one is ever made from data by mistake."""

_IPV4: Final = r"\d{1,3}(?:\.\d{1,3}){3}"
_ADDRESS_OR_ID: Final = re.compile(
    rf"""(?x)
    (?<![\w.]){_IPV4}(?!\w)
    | (?<![\w:])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{_IPV4}|[0-9A-Fa-f]{{0,4}})(?![\w:])  # IPv6
    | (?<![0-9A-Za-z])[0-9A-Fa-f]{{16,}}(?![0-9A-Za-z])                                # ids, keys
    """
)
_CLOCK_TIME: Final = re.compile(r"\d{1,2}:\d{2}:\d{2}")


class Word(str):
    """A constant of this program, such as a state's name. Never wrap a peer's text."""

    __slots__ = ()


class EventLog:
    """Log events of one module: ``EventLog(__name__).info("node.up", contacts=3)``."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, *, peer_triggered: bool = False, **fields: object) -> None:
        """Log a detail for developers."""
        self._log(logging.DEBUG, event, fields, peer_triggered=peer_triggered)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a rare event, which no packet and no request of a user can trigger."""
        self._log(logging.INFO, event, fields, peer_triggered=False)

    def warning(self, event: str, /, *, peer_triggered: bool = False, **fields: object) -> None:
        """Log a problem that the user should know about."""
        self._log(logging.WARNING, event, fields, peer_triggered=peer_triggered)

    def error(self, event: str, /, *, cause: BaseException | None = None, **fields: object) -> None:
        """Log a problem that needs the user's action, or a bug.

        The type of ``cause`` is added, but never its text, which may name a peer.
        """
        if cause is not None:
            fields["cause"] = Word(type(cause).__name__)
        self._log(logging.ERROR, event, fields, peer_triggered=False)

    def _log(
        self, level: int, event: str, fields: Mapping[str, object], *, peer_triggered: bool
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={_shown(value)}" for name, value in fields.items())])
            extra = {_EVENT: event, _PEER_TRIGGERED: peer_triggered}
            self._logger.log(level, "%s", text, extra=extra)


class PeerTriggeredFilter(logging.Filter):
    """Limit the rate of each event that peers can trigger, by one bucket for each event.

    The time is that of the record. The next line that passes says how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record may pass."""
        if not getattr(record, _PEER_TRIGGERED, False):
            return True
        key = (record.name, str(getattr(record, _EVENT, "")))
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MAX_EVENTS:
                return False
            bucket = self._buckets[key] = _Bucket(record.created)
        left_out = bucket.take(record.created)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} left_out={left_out}", None
        return left_out is not None


class _Bucket:
    __slots__ = ("_left_out", "_tokens", "_updated")

    def __init__(self, now: float) -> None:
        self._tokens = float(_PEERS_BURST)
        self._updated = now
        self._left_out = 0

    def take(self, now: float) -> int | None:
        """Return the number left out since the last line; None if this one is left out too."""
        gained = max(0.0, now - self._updated) / _PEERS_PERIOD_S
        self._tokens = min(float(_PEERS_BURST), self._tokens + gained)
        self._updated = max(now, self._updated)
        if self._tokens < 1.0:
            self._left_out += 1
            return None
        self._tokens -= 1.0
        left_out, self._left_out = self._left_out, 0
        return left_out


class ScrubbingFormatter(logging.Formatter):
    """Replace everything that looks like an address or id, at INFO and above.

    Events of this package contain none. This is for messages and tracebacks of other code.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, scrubbed."""
        text = super().format(record)
        if record.levelno < logging.INFO:
            return text
        return _ADDRESS_OR_ID.sub(_scrubbed, text)


def configure_logging(level: str = "warning", stream: TextIO | None = None) -> None:
    """Send the log to ``stream`` (standard error by default) and silence loggers of libraries.

    A further call replaces the handler of an earlier one.

    Raises:
        ValueError: ``level`` is not one of :data:`LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"the log level must be one of {', '.join(LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.addFilter(PeerTriggeredFilter())
    handler.setFormatter(ScrubbingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger(_ROOT)
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    silence_loggers(FOREIGN_LOGGERS)


def silence_loggers(names: Iterable[str]) -> None:
    """Stop loggers of libraries that print peers' addresses; call it before the first datagram."""
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(_OFF)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return str(value) if isinstance(value, Word) else SCRUBBED


def _scrubbed(match: re.Match[str]) -> str:
    """Keep the time of day at the beginning of a line, which has the form of an IPv6 address."""
    return match[0] if _CLOCK_TIME.fullmatch(match[0]) else SCRUBBED
