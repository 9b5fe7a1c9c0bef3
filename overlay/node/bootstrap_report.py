"""Log that bootstrap endpoints do not answer.

The log contains no addresses, so only their number is logged.
"""

from __future__ import annotations

from overlay.addresses import Endpoint
from overlay.logs import EventLog

__all__ = ["BootstrapReport"]

_log = EventLog(__name__)


class BootstrapReport:
    """Log each silent bootstrap endpoint once, until this node joins.

    The memory is bounded by the number of configured bootstrap endpoints.
    """

    def __init__(self) -> None:
        self._silent: set[Endpoint] = set()

    def silent(self, endpoint: Endpoint, other_network: int) -> None:
        """Log that one more endpoint does not answer, unless that is logged already.

        Args:
            endpoint: the endpoint that did not answer.
            other_network: number of dropped packets of other overlays. If it is not 0, the
                ``network_id`` of this node is often wrong.
        """
        if endpoint not in self._silent:
            self._silent.add(endpoint)
            _log.warning(
                "bootstrap.silent", endpoints=len(self._silent), other_network=other_network
            )

    def joined(self, contacts: int) -> None:
        """Log that the node has joined.

        It is logged at the default level only if a silent endpoint was logged before.
        """
        tell = _log.warning if self._silent else _log.info
        tell("bootstrap.joined", contacts=contacts)
        self._silent.clear()
