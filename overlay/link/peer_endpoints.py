"""Choose the endpoints at which a link contacts a peer that has several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from overlay.addresses import Endpoint, OverlayAddress, version_of
from overlay.link.bounds import is_allowed_endpoint
from overlay.link.events import LinkPeer

__all__ = ["PeerEndpoints"]


class PeerEndpoints:
    """The endpoints at which peers answered last time, for a bounded number of peers.

    ``local`` has the packed private addresses of nodes behind the same NAT. They are allowed even
    if other private addresses are not. ``published`` returns the endpoints that the descriptor of a
    node names now, none if there is no descriptor.
    """

    def __init__(self, *, allow_private: bool, most: int) -> None:
        """Begin without knowledge; remember at most ``most`` peers."""
        self.local: frozenset[bytes] = frozenset()
        self.published: Callable[[OverlayAddress], tuple[Endpoint, ...]] = lambda _: ()
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

    def as_published(self, peer: LinkPeer) -> LinkPeer:
        """Return the peer of an open link with the further endpoints that it publishes now.

        If both ends move at once, or one moves while the other is behind NAT, the endpoint in use
        leads nowhere. Endpoints of the other IP version are left out, because the policies of the
        kernel backend name the version of the link.
        """
        version = version_of(peer.endpoint)
        others = tuple(
            each
            for each in self.published(peer.overlay_address)
            if each != peer.endpoint and version_of(each) == version and self.allows(each)
        )
        return replace(peer, others=others)

    def remember(self, overlay_address: OverlayAddress, endpoint: Endpoint) -> None:
        """Note that a peer answered at an endpoint."""
        self._worked.pop(overlay_address, None)
        self._worked[overlay_address] = endpoint
        if len(self._worked) > self._most:
            del self._worked[next(iter(self._worked))]
