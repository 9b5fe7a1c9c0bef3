"""Tells the log that bootstrap endpoints do not answer, without their addresses."""

from __future__ import annotations

from overlay.addresses import Endpoint
from overlay.logs import EventLog

__all__ = ["BootstrapReport"]

_log = EventLog(__name__)


class BootstrapReport:
    """Log each silent bootstrap endpoint once, until this node joins; holds the configured ones."""

    def __init__(self) -> None:
        self._silent: set[Endpoint] = set()

    def silent(self, endpoint: Endpoint, other_network: int) -> None:
        """Log that one more endpoint is silent.

        Args:
            endpoint: the one that did not answer.
            other_network: packets of other overlays that were dropped so far. They are the usual
                sign of a wrong ``network_id``.
        """
        if endpoint not in self._silent:
            self._silent.add(endpoint)
            _log.warning(
                "bootstrap.silent", endpoints=len(self._silent), other_network=other_network
            )

    def joined(self, contacts: int) -> None:
        """Log that the node has joined, at the default level if that was in doubt."""
        tell = _log.warning if self._silent else _log.info
        tell("bootstrap.joined", contacts=contacts)
        self._silent.clear()
