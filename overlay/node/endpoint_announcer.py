"""Pass the endpoints of this node to the cores and the sockets, at start and after each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from overlay.addresses import Endpoint
from overlay.dht.messages import Contact
from overlay.errors import BackendError
from overlay.logs import EventLog
from overlay.node.node_cores import NodeCores
from overlay.node.own_endpoints import OwnEndpoints
from overlay.node.shells.sockets import Sockets

__all__ = ["EndpointAnnouncer"]

_log = EventLog(__name__)


class EndpointAnnouncer:
    """Pass on the results of ``OwnEndpoints``.

    ``hints`` are contacts that earlier runs of the node reached. ``advertise`` is the setting
    ``[network] advertise``.
    """

    def __init__(
        self,
        endpoints: OwnEndpoints,
        sockets: Sockets,
        cores: NodeCores,
        hints: Sequence[Contact],
        advertise: Sequence[Endpoint],
    ) -> None:
        self._endpoints = endpoints
        self._sockets = sockets
        self._cores = cores
        self._hints = hints
        self._advertise = advertise

    def find(self, changed: Callable[[bool], None], now: float) -> None:
        """Determine the endpoints of this node, and call ``changed`` after each later change.

        Args:
            changed: gets whether other nodes should learn of the change.
            now: Unix seconds.
        """
        self._endpoints.follow(self._known, changed)
        try:
            self._endpoints.review()
        except BackendError:
            _log.warning("network.addresses_unknown")
        self.tell(now, moved=False)

    def tell(self, now: float, *, moved: bool) -> None:
        """Pass the endpoints on; with ``moved``, the DHT also notifies its contacts."""
        here = self._endpoints.now
        self._sockets.follow(here.own, self._advertise)
        self._cores.dht.relocate(here.accepted, here.versions, now, moved=moved)
        self._cores.renew_links(now)

    def _known(self) -> Iterator[Endpoint]:
        """Yield endpoints of other nodes: first those of descriptors, then those of the hints."""
        for descriptor in self._cores.table:
            yield from descriptor.endpoints
        yield from (hint.endpoint for hint in self._hints)
