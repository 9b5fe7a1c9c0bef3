"""Error messages for circuits that could not be set up; each names the hop that failed."""

from __future__ import annotations

from typing import Final

from overlay.apm.control import RefuseReason, TeardownReason
from overlay.errors import CircuitRefused, CircuitTimedOut, PathError

__all__ = [
    "acknowledgement_missing",
    "confirmation_missing",
    "link_missing",
    "not_set_up",
    "refusal",
]

_WHY: Final = {
    RefuseReason.LIMIT: "it carries as many circuits as it may",
    RefuseReason.COLLISION: "a number that was drawn at random is in use there",
    RefuseReason.NOT_OFFERED: "it does not carry what was asked for",
    RefuseReason.FAILED: "it could not set up its part",
    TeardownReason.CLOSED: "it closed the circuit",
    TeardownReason.EXPIRED: "the circuit's lifetime was over",
    TeardownReason.SHUTDOWN: "it stops",
    TeardownReason.WITHDRAWN: "it cannot send to the outside over this IP version any more",
}


def refusal(position: int, hops: int, reason: RefuseReason | TeardownReason) -> CircuitRefused:
    """Return the error for a refusal by hop ``position`` (from 1) of ``hops``."""
    if reason in (RefuseReason.UNREACHABLE, TeardownReason.NEXT_HOP_LOST):
        is_exit = " (the exit)" if position + 1 == hops else ""
        why = f"hop {position + 1}{is_exit} did not answer it"
    elif reason is RefuseReason.NOT_OFFERED and position == hops:
        why = "it is no exit for this IP version"
    else:
        why = _WHY[reason]
    sentence = f"hop {position} of {hops} refused the circuit: {why}."
    return CircuitRefused(sentence, hop=position, reason=reason.name)


def confirmation_missing(timeout_s: float, hops: int) -> CircuitTimedOut:
    """Return the error for a circuit of ``hops`` from which no answer came within the timeout."""
    return CircuitTimedOut(
        f"the exit did not confirm the circuit within {timeout_s:g} s ([apm] setup_timeout_s), and "
        f"none of the {hops} hops said why."
    )


def link_missing() -> CircuitTimedOut:
    """Return the error for a first hop to which no link could be opened."""
    return CircuitTimedOut(
        "hop 1 did not answer: this node has no link to the path's first Mix-node.", silent_hop=1
    )


def acknowledgement_missing() -> CircuitTimedOut:
    """Return the error for a first hop that did not acknowledge the request over its link."""
    return CircuitTimedOut(
        "hop 1 did not answer: its link is up, but it did not acknowledge the request for a "
        "circuit.",
        silent_hop=1,
    )


def not_set_up(what: str, cause: Exception) -> PathError:
    """Return the error for a circuit that this host could not set up."""
    error = PathError(f"No circuit: {what}.")
    error.__cause__ = cause
    return error
