"""At which endpoints links speak with peers, and which of them answered last time."""

from __future__ import annotations

from dataclasses import replace

from overlay.addresses import Endpoint, OverlayAddress
from overlay.link.bounds import is_allowed_endpoint
from overlay.link.events import LinkPeer

__all__ = ["PeerEndpoints"]


class PeerEndpoints:
    """Chooses among the endpoints of a peer; remembers what answered for a bounded number.

    ``local`` are packed private addresses of nodes behind the same NAT. They are allowed even if
    private addresses are not.
    """

    def __init__(self, *, allow_private: bool, most: int) -> None:
        """Prepare; remember at most ``most`` peers."""
        self.local: frozenset[bytes] = frozenset()
        self._allow_private = allow_private
        self._most = most
        self._worked: dict[OverlayAddress, Endpoint] = {}

    def allows(self, endpoint: Endpoint) -> bool:
        """Tell whether links may speak with an endpoint."""
        if is_allowed_endpoint(endpoint, allow_private=self._allow_private):
            return True
        return bool(self.local) and endpoint.packed in self.local

    def best_first(self, peer: LinkPeer) -> LinkPeer:
        """Return a peer with its acceptable endpoints, the one that answered last time first."""
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
