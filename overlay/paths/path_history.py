"""Why a path has no circuit: a sentence for its user, and lines of the log without addresses.

The log names hops by position and paths by their process-local number. Both mean nothing to a
reader who does not have the node.
"""

from __future__ import annotations

from typing import Final

from overlay.apm.control import RefuseReason, TeardownReason
from overlay.apm.events import CircuitClosed, CircuitEvent, CircuitLost, CircuitMoved
from overlay.errors import CircuitRefused, CircuitTimedOut, OverlayError
from overlay.logs import EventLog, Word
from overlay.paths.requested_path import RequestedPath

__all__ = ["circuit_asked", "circuit_missing", "circuit_news", "path_opened"]

_log = EventLog(__name__)

_REASONS: Final = {reason.name for kind in (RefuseReason, TeardownReason) for reason in kind}
"""Names that a log may show; an error carries its reason as text."""


def circuit_asked(path: RequestedPath) -> None:
    """Log at debug level that a circuit was requested."""
    _log.debug(
        "path.circuit_asked",
        path=path.number,
        circuit=path.circuit,
        hops=path.hops,
        attempt=path.failures + 1,
    )


def circuit_news(path: RequestedPath, event: CircuitEvent) -> None:
    """Log how a circuit of a path ended, and note it on the path."""
    match event:
        case CircuitLost():
            silent = f" (hop {event.silent_hop} of {path.hops} is silent)"
            path.trouble = f"the last circuit ended: {event.reason.value}"
            path.trouble += silent if event.silent_hop else ""
            _tell_end("path.lost", path, event)
        case CircuitMoved():
            _tell_end("path.standby_took_over", path, event)
        case CircuitClosed():
            path.trouble = f"the last circuit ended: {event.reason.value}"
            _log.debug(
                "path.circuit_closed", path=path.number, circuit=event.circuit, reason=event.reason
            )
        case _:
            pass


def path_opened(path: RequestedPath) -> None:
    """Log that a path carries packets; at the default level if it had trouble before."""
    word, tell = ("path.open_again", _log.warning) if path.trouble else ("path.open", _log.debug)
    tell(word, peer_triggered=True, path=path.number, circuit=path.circuit)
    path.trouble = ""


def circuit_missing(path: RequestedPath, error: OverlayError) -> None:
    """Log why a circuit could not be opened, and note it on the path."""
    path.trouble = str(error).rstrip(".")
    where: dict[str, object] = {}
    match error:
        case CircuitRefused(hop=hop, reason=reason):
            where = {"hop": hop}
            if reason in _REASONS:
                where["reason"] = Word(reason.lower())
        case CircuitTimedOut(silent_hop=int(hop)):
            where = {"silent_hop": hop}
        case _:
            pass
    _log.warning(
        "path.no_circuit",
        peer_triggered=True,
        path=path.number,
        cause=Word(type(error).__name__),
        attempt=path.failures,
        **where,
    )


def _tell_end(word: str, path: RequestedPath, event: CircuitLost | CircuitMoved) -> None:
    where = {} if event.silent_hop is None else {"silent_hop": event.silent_hop}
    _log.warning(
        word,
        peer_triggered=True,
        path=path.number,
        circuit=event.circuit,
        reason=event.reason,
        **where,
    )
