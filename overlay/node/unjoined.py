"""Why a node that knows no Mix-node has no path, in words for its user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.addresses import Endpoint
from overlay.errors import NoSuitablePath
from overlay.plurals import counted

__all__ = ["LEARNING_S", "explained"]

LEARNING_S: Final = 20.0
"""After its start, how long a node may need for its first crawls of the overlay."""


def explained(
    error: NoSuitablePath, *, contacts: int, bootstrap: Sequence[Endpoint]
) -> NoSuitablePath:
    """Return the error that a user should read; the same one if the node knows Mix-nodes.

    Args:
        error: what path selection said.
        contacts: nodes of the overlay that have answered this one.
        bootstrap: endpoints to join through, of the configuration and of ``overlay up``.
    """
    if error.known:
        return error
    if contacts:
        sentence = (
            f"this node has joined the overlay ({counted(contacts, 'contact')}), but none of the "
            "nodes that it found offers to carry circuits; wait for more, or see: overlay peers."
        )
    elif bootstrap:
        listed = ", ".join(map(str, bootstrap))
        verb = "has" if len(bootstrap) == 1 else "have"
        sentence = (
            f"this node has not joined the overlay: {listed} {verb} not answered; check the "
            "address, the network_id, this host's clock, and that UDP passes."
        )
    else:
        sentence = (
            "this node has not joined the overlay, because it knows no other node; name one with "
            '"overlay up --bootstrap ADDRESS:PORT".'
        )
    return NoSuitablePath(sentence, known=error.known, removed=error.removed)
