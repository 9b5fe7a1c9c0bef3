"""The errors of the overlay; each class says which party must act.

::

    OverlayError
    ├─ ConfigurationError   the user must change something: what, where, what to write instead
    ├─ PeerError            a peer sent or did something invalid
    │  ├─ Malformed         bytes that are no message of the overlay
    │  ├─ NotAuthentic      a signature, tag or key that does not match
    │  ├─ Replayed          a message that was seen before, or is too old to know
    │  └─ Refused           the peer refused the request, with a reason
    ├─ PathError            a path could not be opened
    │  ├─ NoSuitablePath    the Mix-nodes Topology Table has no such path (with a report)
    │  ├─ CircuitRefused    a Mix-node of the path refused
    │  └─ CircuitTimedOut   no answer arrived in time
    ├─ BackendError         kernel, TUN, socket: the operation and its errno
    ├─ LimitReached         a limit of this node was reached; the request may be repeated later
    │  └─ TooManyConnections of the control socket
    ├─ PluginError          a plug-in failed: which one, and how; its author must fix it
    └─ InternalError        a broken invariant: a bug, which is always reported
"""

from __future__ import annotations

__all__ = [
    "AddressInUse",
    "BackendError",
    "CircuitRefused",
    "CircuitTimedOut",
    "ConfigurationError",
    "InternalError",
    "LimitReached",
    "Malformed",
    "NoSuitablePath",
    "NotAuthentic",
    "OverlayError",
    "PathError",
    "PeerError",
    "PluginError",
    "Refused",
    "Replayed",
    "TooManyConnections",
]


class OverlayError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(OverlayError):
    """The user must change something; the message says what is wrong, where, and what to write."""


class PeerError(OverlayError):
    """A peer's bytes or behaviour are invalid; this is no fault of this node."""


class Malformed(PeerError):
    """Bytes that cannot be parsed as a message of the overlay."""


class NotAuthentic(PeerError):
    """A signature, an ICV or a key does not match the data that it protects."""


class Replayed(PeerError):
    """A message that was accepted before, or that is too old to know whether it was."""


class Refused(PeerError):
    """A peer understood the request and refused it."""


class PathError(OverlayError):
    """An anonymous path could not be opened."""


class NoSuitablePath(PathError):
    """The topology table holds no path that meets every constraint.

    The message is a full sentence. ``known`` is the number of known Mix-nodes. ``removed`` says how
    many of them each constraint removed, in the order in which the constraints were applied.
    """

    def __init__(self, message: str, *, known: int, removed: tuple[tuple[str, int], ...]) -> None:
        super().__init__(message)
        self.known = known
        self.removed = removed


class CircuitRefused(PathError):
    """A Mix-node of the path refused the circuit; ``hop`` counts from 1."""

    def __init__(self, message: str, *, hop: int, reason: str) -> None:
        super().__init__(message)
        self.hop = hop
        self.reason = reason


class AddressInUse(PathError):
    """The exit lent an address that this host's networks use already."""


class CircuitTimedOut(PathError):
    """The path's confirmation did not arrive in time.

    ``silent_hop`` counts from 1 and names the hop that did not answer, None if unknown.
    """

    def __init__(self, message: str, *, silent_hop: int | None = None) -> None:
        super().__init__(message)
        self.silent_hop = silent_hop


class BackendError(OverlayError):
    """The operating system refused an operation; the message names it and the remedy."""


class LimitReached(OverlayError):
    """A limit of this node was reached; nothing changed, and the request may be repeated later."""


class TooManyConnections(LimitReached):
    """The control socket has its maximum of connections; nothing was read from this one."""


class PluginError(OverlayError):
    """A plug-in failed or broke its contract; the message names it. Never a bug of this package."""


class InternalError(OverlayError):
    """An invariant of this program is broken: a bug that must always be reported."""
