"""Notice that this host refuses the datagrams that the node sends.

Linux tells the sender of a datagram if a packet filter of the same host dropped or rejected it
(EPERM). Without this report, such a filter would look like silent nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from overlay.logs import EventLog

__all__ = ["SendingReport"]

_SENT: Final = "udp_sent"
_REFUSED: Final = "udp_dropped_EPERM"

_log = EventLog(__name__)


class SendingReport:
    """Log when this host begins to refuse most datagrams, and when it accepts them again.

    ``counters`` returns the counters of the node's sockets, which only grow.
    """

    def __init__(self, counters: Callable[[], Mapping[str, int]]) -> None:
        self._counters = counters
        self._last = (0, 0)
        self._is_refused = False

    def problem(self) -> str | None:
        """Return a sentence about refused datagrams, or None if the host sends them."""
        if not self._is_refused:
            return None
        return (
            "a packet filter of this host refuses the datagrams that this node sends; for the rule "
            "and its remedy, run: overlay doctor"
        )

    def check(self, now: float) -> None:  # noqa: ARG002 - a periodic task gets the time
        """Compare the counters with those of the last call; without datagrams nothing changes."""
        counters = self._counters()
        totals = counters.get(_SENT, 0), counters.get(_REFUSED, 0)
        sent, refused = (total - last for total, last in zip(totals, self._last, strict=True))
        self._last = totals
        if not sent and not refused:
            return
        is_refused = refused > sent
        if is_refused != self._is_refused:
            _log.warning("sending.refused" if is_refused else "sending.accepted")
        self._is_refused = is_refused
