"""Limits on links: with which endpoints, and how many that other nodes open.

Without these limits, one host with many identities could take all memory and CPU time for links.
"""

from __future__ import annotations

import math
from functools import lru_cache

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import LimitReached, Malformed
from overlay.link.cookie import source_prefix
from overlay.link.settings import LinkSettings
from overlay.shares import Group, Groups, Shares, groups_of
from overlay.special_networks import forbidden_packed

__all__ = ["AcceptedTable", "HalfOpenTable", "LinksByEndpoint", "is_allowed_endpoint"]


def is_allowed_endpoint(endpoint: Endpoint, *, allow_private: bool) -> bool:
    """Tell whether links may use an endpoint: unicast, in canonical form, and public.

    With ``allow_private``, private, loopback and link-local addresses are allowed too.
    """
    return 1 <= endpoint.port <= 65535 and _is_allowed_host(endpoint.host, allow_private)


@lru_cache(maxsize=4096)
def _is_allowed_host(host: str, allow_private: bool) -> bool:
    # Cached, because parsing an address takes ten times as long as everything else here.
    try:
        endpoint = Endpoint.parse(host, 1)
    except Malformed:
        return False
    packed = endpoint.packed
    multicast = packed[0] == 255 if len(packed) == 16 else 224 <= packed[0] < 240
    if endpoint.host != host or multicast or not any(packed):
        return False
    return allow_private or forbidden_packed(packed) is None


def _groups(source: Endpoint, per_prefix: int) -> Groups:
    """Return the groups of addresses against whose limits a link from ``source`` counts.

    An IPv4 /24 or IPv6 /56 gets at most ``per_prefix`` links. One IPv4 address gets half of these,
    so that other hosts of its /24 get some too. A /56 usually belongs to one customer.
    """
    # Keys of overlay.shares begin with the length of an address, 4 or 16, never with 0 or 1.
    packed = source.packed
    prefix = Group(bytes(1) + source_prefix(source), math.inf, per_prefix)
    if len(packed) != 4:
        return (prefix, *groups_of(packed))
    address = Group(b"\x01" + packed, math.inf, max(2, per_prefix // 2))
    return (address, prefix, *groups_of(packed))


class AcceptedTable:
    """Links that other nodes opened, with limits per address prefix.

    An attacker can create identities at no cost, but not addresses. Source addresses can be
    forged, so a link counts against its prefixes only after a cookie or a confirm has proved its
    address. If the peer moves, the link counts at the new endpoint.

    The owner of the links calls :meth:`discard` for each closed link, so the number of links
    bounds this table.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._per_prefix = settings.max_accepted_links_per_prefix
        self._proved: Shares[OverlayAddress] = Shares(settings.max_accepted_links)
        self._unproved: set[OverlayAddress] = set()

    @property
    def unproved(self) -> int:
        """Number of links from an address that is not proved."""
        return len(self._unproved)

    def admits(self, source: Endpoint) -> bool:
        """Tell whether the prefixes of ``source`` have room for one more link."""
        return self._proved.admits(_groups(source, self._per_prefix))

    def add(self, overlay_address: OverlayAddress, source: Endpoint, *, proved: bool) -> None:
        """Record a link that another node opened; ``proved`` if it sent a valid cookie."""
        self.discard(overlay_address)
        if proved:
            self._proved.add(overlay_address, _groups(source, self._per_prefix))
        else:
            self._unproved.add(overlay_address)

    def settle(
        self, overlay_address: OverlayAddress, endpoint: Endpoint, *, in_use: bool = False
    ) -> bool:
        """Count a link of this table at the endpoint that its peer has proved.

        This endpoint may differ from the first source, which can be forged. Links that this node
        opened are not in the table and are always accepted.

        Returns:
            False if the prefixes of ``endpoint`` have no room; the link then counts nowhere. A
            link that was ``in_use`` counts where it did before, because it must not end when its
            peer moves.
        """
        groups = _groups(endpoint, self._per_prefix)
        unproved = overlay_address in self._unproved
        self._unproved.discard(overlay_address)
        before = self._proved.groups_of(overlay_address)
        if not unproved and before in (None, groups):
            return True
        self._proved.discard(overlay_address)
        if not self._proved.admits(groups):
            if before is None or not in_use:
                return False
            groups = before
        self._proved.add(overlay_address, groups)
        return True

    def discard(self, overlay_address: OverlayAddress) -> None:
        """Forget a link if it is in this table."""
        self._proved.discard(overlay_address)
        self._unproved.discard(overlay_address)


class HalfOpenTable:
    """Links that a peer began and has not confirmed, with limits per address prefix.

    There are two separate limits, so that forged source addresses cannot exclude honest nodes:

    - Initiations with a valid cookie: ``max_half_open`` in total, ``max_half_open_per_prefix``
      per /24 or /56, and shares of narrower and wider prefixes (:mod:`overlay.shares`).
    - Initiations without a cookie: ``max_unproved_half_open`` in total and
      ``max_unproved_half_open_per_prefix`` per prefix. Above these limits a cookie is required.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._proved: Shares[OverlayAddress] = Shares(settings.max_half_open)
        self._unproved: dict[OverlayAddress, bytes] = {}

    def wants_cookie(self, source: Endpoint) -> bool:
        """Tell whether the next initiation from ``source`` must contain a cookie."""
        if len(self._unproved) >= self._settings.max_unproved_half_open:
            return True
        share = list(self._unproved.values()).count(source_prefix(source))
        return share >= self._settings.max_unproved_half_open_per_prefix

    def note(
        self, overlay_address: OverlayAddress, source: Endpoint | None, *, proved: bool = False
    ) -> None:
        """Record the source of a peer's half-open link, None if it has no half-open link."""
        self._proved.discard(overlay_address)
        self._unproved.pop(overlay_address, None)
        if source is None:
            return
        if proved:
            self._proved.add(overlay_address, self._groups(source))
        else:
            self._unproved[overlay_address] = source_prefix(source)

    def check(self, overlay_address: OverlayAddress, source: Endpoint) -> None:
        """Check that the limits admit one more half-open link from a proved address.

        A peer that has a half-open link already passes, because the new one replaces it.

        Raises:
            LimitReached: a limit is reached.
        """
        if overlay_address in self._proved:
            return
        if not self._proved.admits(self._groups(source)):
            raise LimitReached("too many half-open links, in all or from one prefix")

    def _groups(self, source: Endpoint) -> Groups:
        return _groups(source, self._settings.max_half_open_per_prefix)


class LinksByEndpoint:
    """The link in use at each endpoint. If there are several, it is the latest one.

    The owner of the links calls :meth:`note` for each, so the number of links bounds this table.
    """

    def __init__(self) -> None:
        self._at: dict[Endpoint, OverlayAddress] = {}
        self._of: dict[OverlayAddress, Endpoint] = {}

    def note(self, overlay_address: OverlayAddress, endpoint: Endpoint | None) -> None:
        """Record the endpoint of a link, None if the link is not in use."""
        before = self._of.get(overlay_address)
        if endpoint == before:
            return
        if before is not None:
            del self._of[overlay_address]
            if self._at.get(before) == overlay_address:
                del self._at[before]
        if endpoint is not None:
            self._of[overlay_address] = endpoint
            self._at[endpoint] = overlay_address

    def __contains__(self, overlay_address: object) -> bool:
        return overlay_address in self._of

    def at(self, endpoint: Endpoint) -> OverlayAddress | None:
        """Return the overlay address of the peer whose link is at this endpoint."""
        return self._at.get(endpoint)
