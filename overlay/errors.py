"""Every error of the overlay answers: whose fault, and what now?

::

    OverlayError
    ├─ ConfigurationError   the user: what, where, what to write instead
    ├─ PeerError            what a peer sent or did
    │  ├─ Malformed         bytes that are no message of ours
    │  ├─ NotAuthentic      a signature, tag or key that does not fit
    │  ├─ Replayed          seen before, or too old to tell
    │  └─ Refused           the peer said no, and why
    ├─ PathError            no circuit
    │  ├─ NoSuitablePath    the Mix-nodes Topology Table has no such path (with a report)
    │  ├─ CircuitRefused    a Mix-node of the path refused
    │  └─ CircuitTimedOut   nothing came back in time
    ├─ BackendError         kernel, TUN, socket: the operation and its errno
    ├─ LimitReached         a bound of ours held; safe to try again later
    │  └─ TooManyConnections of the control socket
    ├─ PluginError          a plug-in failed: whose, and how; its author must mend it
    └─ InternalError        a broken invariant: a bug, never swallowed
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
    """The user must change something; the message is one sentence that says what, where and how."""


class PeerError(OverlayError):
    """A peer's bytes or behaviour are not acceptable; never a fault of ours."""


class Malformed(PeerError):
    """Bytes that cannot be parsed into any message of ours."""


class NotAuthentic(PeerError):
    """A signature, an ICV or a key does not fit what it claims to protect."""


class Replayed(PeerError):
    """A message that was accepted before, or too old for us to know."""


class Refused(PeerError):
    """A peer understood the request and declined it."""


class PathError(OverlayError):
    """An anonymous path could not be had."""


class NoSuitablePath(PathError):
    """The topology table holds no path that meets every constraint.

    The message is a full sentence; ``removed`` counts, in the order in which the
    constraints were applied, how many Mix-nodes each of them removed.
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
    """One of our own bounds held; nothing changed, and trying later is safe."""


class TooManyConnections(LimitReached):
    """The control socket serves as many connections as it may; nothing was read from this one."""


class PluginError(OverlayError):
    """A plug-in failed or broke its contract; the message names it. Never a bug of this package."""


class InternalError(OverlayError):
    """A broken invariant of ours: a bug that must be reported, never swallowed."""
