"""Whom a node speaks with, and how many strangers may wait at its door."""

from __future__ import annotations

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import LimitReached, Malformed
from overlay.link.cookie import source_prefix
from overlay.link.settings import LinkSettings

__all__ = ["AcceptedTable", "HalfOpenTable", "is_allowed_endpoint"]


def is_allowed_endpoint(endpoint: Endpoint, *, allow_private: bool) -> bool:
    """Tell whether we speak with an endpoint: unicast, in canonical form, and public.

    ``allow_private`` lets in private, loopback and link-local addresses as well.
    """
    try:
        if Endpoint.parse(endpoint.host, endpoint.port) != endpoint:
            return False
    except Malformed:
        return False
    address = endpoint.address
    if address.is_multicast or address.is_unspecified:
        return False
    return allow_private or address.is_global


class AcceptedTable:
    """Links that strangers opened, with the prefix they came from.

    Identities are free, addresses are not: without a share for each prefix, one host could
    take every place. Bounded by the number of links, whose owner says when one is gone.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._prefixes: dict[OverlayAddress, bytes] = {}

    def check(self, source: Endpoint) -> None:
        """Insist that one more from there is within the bound.

        Raises:
            LimitReached: it is not.
        """
        prefix = source_prefix(source)
        share = sum(other == prefix for other in self._prefixes.values())
        if share >= self._settings.max_accepted_links_per_prefix:
            raise LimitReached("too many links from one prefix")

    def add(self, overlay_address: OverlayAddress, source: Endpoint) -> None:
        """Record a link that a stranger opened."""
        self._prefixes[overlay_address] = source_prefix(source)

    def discard(self, overlay_address: OverlayAddress) -> None:
        """Forget a link, if it was one of these."""
        self._prefixes.pop(overlay_address, None)


class HalfOpenTable:
    """Links that a peer began and has not confirmed, with the prefix they came from.

    Holds at most ``max_half_open`` of strangers, ``max_half_open_per_prefix`` from one prefix.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._prefixes: dict[OverlayAddress, bytes] = {}

    @property
    def is_crowded(self) -> bool:
        """Half full: from here on strangers must prove their address first."""
        return 2 * len(self._prefixes) >= self._settings.max_half_open

    def note(self, overlay_address: OverlayAddress, source: Endpoint | None) -> None:
        """Record where a peer's half-open link came from; None if it has none (any more)."""
        if source is None:
            self._prefixes.pop(overlay_address, None)
        else:
            self._prefixes[overlay_address] = source_prefix(source)

    def check(self, overlay_address: OverlayAddress, source: Endpoint) -> None:
        """Insist that one more is within the bounds; a peer's own earlier one does not count.

        Raises:
            LimitReached: it is not.
        """
        others = [prefix for peer, prefix in self._prefixes.items() if peer != overlay_address]
        if len(others) >= self._settings.max_half_open:
            raise LimitReached("too many half-open links")
        if others.count(source_prefix(source)) >= self._settings.max_half_open_per_prefix:
            raise LimitReached("too many half-open links from one prefix")
