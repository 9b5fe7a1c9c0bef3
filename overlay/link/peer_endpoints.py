"""Choose the endpoint at which a link contacts a peer that has several."""

from __future__ import annotations

from dataclasses import replace

from overlay.addresses import Endpoint, OverlayAddress
from overlay.link.bounds import is_allowed_endpoint
from overlay.link.events import LinkPeer

__all__ = ["PeerEndpoints"]


class PeerEndpoints:
    """The endpoints at which peers answered last time, for a bounded number of peers.

    ``local`` has the packed private addresses of nodes behind the same NAT. They are allowed even
    if other private addresses are not.
    """

    def __init__(self, *, allow_private: bool, most: int) -> None:
        """Begin without knowledge; remember at most ``most`` peers."""
        self.local: frozenset[bytes] = frozenset()
        self._allow_private = allow_private
        self._most = most
        self._worked: dict[OverlayAddress, Endpoint] = {}

    def allows(self, endpoint: Endpoint) -> bool:
        """Tell whether links may use an endpoint."""
        if is_allowed_endpoint(endpoint, allow_private=self._allow_private):
            return True
        return bool(self.local) and endpoint.packed in self.local

    def best_first(self, peer: LinkPeer) -> LinkPeer:
        """Return the peer with its allowed endpoints, the one that answered last time first.

        If none is allowed, all are returned, and the caller must check the first one.
        """
        allowed = [each for each in peer.endpoints if self.allows(each)]
        worked = self._worked.get(peer.overlay_address)
        allowed.sort(key=lambda each: each != worked)
        first, *others = allowed or peer.endpoints
        return replace(peer, endpoint=first, others=tuple(others))

    def remember(self, overlay_address: OverlayAddress, endpoint: Endpoint) -> None:
        """Note that a peer answered at an endpoint."""
        self._worked.pop(overlay_address, None)
        self._worked[overlay_address] = endpoint
        if len(self._worked) > self._most:
            del self._worked[next(iter(self._worked))]
