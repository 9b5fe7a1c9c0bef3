"""Process datagrams of other nodes: cheap checks first, then the request or reply inside."""

from __future__ import annotations

from collections import Counter

from overlay.addresses import Endpoint
from overlay.dht.acceptance import Acceptance
from overlay.dht.admission import host_allowed, origin
from overlay.dht.calls import Calls
from overlay.dht.envelope import (
    BareRequest,
    Challenge,
    Envelopes,
    OtherNetwork,
    UnverifiedRequest,
)
from overlay.dht.events import DhtCount
from overlay.dht.responder import RequestResponder
from overlay.errors import Malformed

__all__ = ["DhtReception", "ReceivedRequest"]

ReceivedRequest = tuple[UnverifiedRequest | BareRequest, Endpoint]


class DhtReception:
    """Parses datagrams, passes challenges and replies to ``calls``, and returns requests.

    ``counts`` receives what was dropped.
    """

    def __init__(
        self,
        envelopes: Envelopes,
        *,
        allow_private: bool,
        acceptance: Acceptance,
        calls: Calls,
        responder: RequestResponder,
        counts: Counter[DhtCount],
    ) -> None:
        self._envelopes = envelopes
        self._allow_private = allow_private
        self._acceptance = acceptance
        self._calls = calls
        self._responder = responder
        self._counts = counts

    def receive(self, data: bytes, source: Endpoint, now: float) -> ReceivedRequest | None:
        """Process one datagram (without the framing of the control channel); never raise.

        Returns:
            The request in it, to be answered, and its source; None if it was something else.
        """
        bare = self._envelopes.bare_request(data)
        if bare is not None:
            return (bare, source) if self._accepts_bare(bare, source, now) else None
        try:
            message = self._envelopes.parse(data)
            came_from = origin(*source, self._allow_private)
        except OtherNetwork:
            self._counts[DhtCount.OTHER_NETWORK] += 1
        except Malformed:
            self._counts[DhtCount.MALFORMED] += 1
        else:
            if came_from is None:
                self._counts[DhtCount.REFUSED_ENDPOINT] += 1
            elif isinstance(message, Challenge):
                self._calls.challenged(message, came_from, now)
            elif not self._acceptance.meets_cost(message.identity_key):
                self._counts[DhtCount.UNDER_COST] += 1
            elif isinstance(message, UnverifiedRequest):
                return message, came_from
            else:
                self._calls.replied(message, came_from, now)
        return None

    def _accepts_bare(self, request: BareRequest, source: Endpoint, now: float) -> bool:
        """Check a request without a cookie, which may have a forged source address."""
        if self._responder.has_no_challenge_left(now):
            self._counts[DhtCount.RATE_LIMITED] += 1
        elif not self._may_answer(source):
            self._counts[DhtCount.REFUSED_ENDPOINT] += 1
        elif not self._acceptance.meets_cost(request.identity_key):
            self._counts[DhtCount.UNDER_COST] += 1
        else:
            return True
        return False

    def _may_answer(self, source: Endpoint) -> bool:
        # The kernel writes a source in its canonical form, so it is not parsed as origin() does.
        try:
            return source.port > 0 and host_allowed(source.host, self._allow_private)
        except OSError:  # a literal address with a zone, or none
            return False
