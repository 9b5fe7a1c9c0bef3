"""Tells the cores and the sockets where this node is, at start and after each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from overlay.addresses import Endpoint
from overlay.dht.messages import Contact
from overlay.errors import BackendError
from overlay.logs import EventLog
from overlay.node.control_plane import ControlPlane
from overlay.node.own_endpoints import OwnEndpoints
from overlay.node.sockets import Sockets

__all__ = ["EndpointAnnouncer"]

_log = EventLog(__name__)


class EndpointAnnouncer:
    """Owner of no state: it passes on what ``OwnEndpoints`` finds out.

    ``hints`` are nodes that earlier runs reached, ``advertise`` what the configuration says.
    """

    def __init__(
        self,
        endpoints: OwnEndpoints,
        sockets: Sockets,
        plane: ControlPlane,
        hints: Sequence[Contact],
        advertise: Sequence[Endpoint],
    ) -> None:
        self._endpoints = endpoints
        self._sockets = sockets
        self._plane = plane
        self._hints = hints
        self._advertise = advertise

    def find(self, changed: Callable[[bool], None], now: float) -> None:
        """Find out where this node is, and call ``changed`` after each change from now on."""
        self._endpoints.follow(self._known, changed)
        try:
            self._endpoints.review()
        except BackendError:
            _log.warning("network.addresses_unknown")
        self.tell(now, moved=False)

    def tell(self, now: float, *, moved: bool) -> None:
        """Pass the location on; the contacts hear of it if this node has ``moved``."""
        here = self._endpoints.now
        self._sockets.follow(here.own, self._advertise)
        self._plane.dht.relocate(here.accepted, here.versions, now, moved=moved)
        self._plane.renew_links(now)

    def _known(self) -> Iterator[Endpoint]:
        """Yield where other nodes are: those with a descriptor first, then those of earlier."""
        for descriptor in self._plane.table:
            yield from descriptor.endpoints
        yield from (hint.endpoint for hint in self._hints)
