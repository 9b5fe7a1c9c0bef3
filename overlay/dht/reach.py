"""Choose endpoints of other nodes that have an IP version of this host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from overlay.addresses import Endpoint, NodeId, version_of
from overlay.dht.messages import Contact

__all__ = ["KnownEndpoints", "Reach", "towards"]

KnownEndpoints = Callable[[NodeId], Sequence[Endpoint]]
"""Returns the endpoints that a node's verified descriptor names, none if none is known."""


class Reach:
    """Where this host is reached and which IP versions it has.

    Until its IP versions are known, both are assumed. ``own`` are the endpoints to which requests
    for this node may be sent; empty: not known, so that any is accepted.
    """

    def __init__(self, known_endpoints: KnownEndpoints) -> None:
        self.versions = frozenset((4, 6))
        self.own: frozenset[Endpoint] = frozenset()
        self._known_endpoints = known_endpoints

    def holds(self, endpoint: Endpoint) -> bool:
        """Tell whether this host has the IP version of an endpoint."""
        return version_of(endpoint) in self.versions

    def first(self, endpoints: Iterable[Endpoint]) -> Endpoint | None:
        """Return the first endpoint within reach, else the first of all, None if there is none."""
        several = tuple(endpoints)
        return next(filter(self.holds, several), several[0] if several else None)

    def within(self, contact: Contact) -> Contact:
        """Return a contact at an endpoint within reach, if one is known."""
        if self.holds(contact.endpoint):
            return contact
        return towards(self.versions, contact, self._known_endpoints)


def towards(versions: frozenset[int], contact: Contact, known: KnownEndpoints) -> Contact:
    """Return a contact at its endpoint of one of these IP versions, if one is known."""
    if version_of(contact.endpoint) in versions:
        return contact
    fitting = (each for each in known(contact.node_id) if version_of(each) in versions)
    return Contact(contact.node_id, next(fitting, contact.endpoint), contact.identity_key)
