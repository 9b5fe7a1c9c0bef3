"""With which endpoints a node opens links, and how many links strangers may open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import LimitReached, Malformed
from overlay.link.cookie import source_prefix
from overlay.link.settings import LinkSettings
from overlay.special_networks import forbidden_network

__all__ = ["AcceptedTable", "HalfOpenTable", "is_allowed_endpoint"]


def is_allowed_endpoint(endpoint: Endpoint, *, allow_private: bool) -> bool:
    """Tell whether we speak with an endpoint: unicast, in canonical form, and public.

    ``allow_private`` lets in private, loopback and link-local addresses as well.
    """
    return 1 <= endpoint.port <= 65535 and _is_allowed_host(endpoint.host, allow_private)


@lru_cache(maxsize=4096)
def _is_allowed_host(host: str, allow_private: bool) -> bool:
    # Cached, because parsing an address takes ten times as long as everything else here.
    try:
        endpoint = Endpoint.parse(host, 1)
    except Malformed:
        return False
    address = endpoint.address
    if endpoint.host != host or address.is_multicast or address.is_unspecified:
        return False
    return allow_private or forbidden_network(address) is None


@dataclass(slots=True)
class _Origin:
    """Where a link came from, and whether the sender has shown that it receives there."""

    prefix: bytes
    proved: bool


class AcceptedTable:
    """Links that strangers opened, with the prefix they came from.

    Identities are free, addresses are not: without a share for each prefix, one host could
    take every place. A source address is easily forged, so a link counts against its prefix
    only when its address is proved, by a cookie or by the confirmation. Bounded by the number
    of links, whose owner says when one is gone.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._origins: dict[OverlayAddress, _Origin] = {}

    @property
    def unproved(self) -> int:
        """How many links came from an address that is not proved."""
        return sum(not origin.proved for origin in self._origins.values())

    def check(self, source: Endpoint) -> None:
        """Insist that the prefix of ``source`` may open one more link.

        Raises:
            LimitReached: the prefix has its share of links from proved addresses.
        """
        prefix = source_prefix(source)
        share = sum(each.proved and each.prefix == prefix for each in self._origins.values())
        if share >= self._settings.max_accepted_links_per_prefix:
            raise LimitReached("too many links from one prefix")

    def add(self, overlay_address: OverlayAddress, source: Endpoint, *, proved: bool) -> None:
        """Record a link that a stranger opened; ``proved`` if it brought a valid cookie."""
        self._origins[overlay_address] = _Origin(source_prefix(source), proved)

    def prove(self, overlay_address: OverlayAddress) -> None:
        """Count a link from now on, if it is one of these: its address is proved."""
        origin = self._origins.get(overlay_address)
        if origin is not None:
            origin.proved = True

    def discard(self, overlay_address: OverlayAddress) -> None:
        """Forget a link, if it was one of these."""
        self._origins.pop(overlay_address, None)


class HalfOpenTable:
    """Links that a peer began and has not confirmed, with the prefix they came from.

    Two separate shares, so that forged source addresses take nothing from an honest node:

    - Initiations with a valid cookie: ``max_half_open`` in all and ``max_half_open_per_prefix``
      from one prefix.
    - Initiations without one: ``max_unproved_half_open`` in all and
      ``max_unproved_half_open_per_prefix`` from one prefix. Beyond these a cookie is asked for.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._proved: dict[OverlayAddress, bytes] = {}
        self._unproved: dict[OverlayAddress, bytes] = {}

    def wants_cookie(self, source: Endpoint) -> bool:
        """Tell whether the next initiation from ``source`` must bring a cookie."""
        if len(self._unproved) >= self._settings.max_unproved_half_open:
            return True
        share = list(self._unproved.values()).count(source_prefix(source))
        return share >= self._settings.max_unproved_half_open_per_prefix

    def note(
        self, overlay_address: OverlayAddress, source: Endpoint | None, *, proved: bool = False
    ) -> None:
        """Record where a peer's half-open link came from; None if it has none (any more)."""
        self._proved.pop(overlay_address, None)
        self._unproved.pop(overlay_address, None)
        if source is not None:
            table = self._proved if proved else self._unproved
            table[overlay_address] = source_prefix(source)

    def check(self, overlay_address: OverlayAddress, source: Endpoint) -> None:
        """Insist that one more from a proved address is within the bounds.

        A peer's own earlier one does not count, because the new one replaces it.

        Raises:
            LimitReached: it is not.
        """
        others = [prefix for peer, prefix in self._proved.items() if peer != overlay_address]
        if len(others) >= self._settings.max_half_open:
            raise LimitReached("too many half-open links")
        if others.count(source_prefix(source)) >= self._settings.max_half_open_per_prefix:
            raise LimitReached("too many half-open links from one prefix")
