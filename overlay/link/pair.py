"""The state that a link keeps about one pair of SAs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from overlay.addresses import Endpoint
from overlay.ipsec.interface import Spi
from overlay.link.backoff import Backoff
from overlay.link.endpoint_proof import EndpointProof
from overlay.link.events import LinkEstablished, LinkKeys, LinkSaRemoved, LinkSaRetired
from overlay.link.exchange import Agreement

__all__ = ["MAX_ANSWERED", "Offer", "SaPair"]

MAX_ANSWERED: Final = 4
"""Endpoints that a responder remembers for one initiation, because it has answered to each."""


@dataclass(slots=True, eq=False)
class Offer:
    """What a responder remembers of an initiation until the pair is confirmed.

    Attributes:
        initiation: its mac1, which identifies copies of it that arrive from other endpoints.
        answer: the encoded response. It is sent to the sources of copies too, because the first
            copy to arrive may not be the peer's own.
        sources: endpoints to which the answer was sent, at most ``MAX_ANSWERED``.
        address_proved: whether the initiation contained a valid cookie.
    """

    initiation: bytes
    answer: bytes
    sources: list[Endpoint]
    address_proved: bool

    def answer_again(self, initiation: bytes, source: Endpoint) -> bool:
        """Tell whether to answer a copy of the initiation from ``source``, and remember it."""
        if initiation != self.initiation or source in self.sources:
            return False
        # Faster copies from elsewhere must not keep the answer from the peer's own endpoint.
        if len(self.sources) >= MAX_ANSWERED:
            self.sources.pop(0)
        self.sources.append(source)
        return True


@dataclass(slots=True, eq=False)
class SaPair:
    """An agreed pair and its timers, in seconds of Unix time.

    Attributes:
        agreement: the peer and the keys.
        endpoint: where the peer is.
        ours: whether our initiation made the pair.
        agreed_at: when the handshake ended.
        rekey_at: when to replace the pair.
        expires_at: when to remove the pair, if it is offered and not confirmed, or retired.
        sends_until: when to remove the outbound SA of a retired pair.
        confirming: repeats the confirm until the peer acknowledges it, None if we answered.
        rekeyed: whether the pair replaces an earlier one of the link.
        failed_rekeyings: attempts to replace the pair that got no answer.
        offer: what the responder remembers while the pair is offered.
        proof: decides where the peer is while the pair is offered or current.
    """

    agreement: Agreement
    endpoint: Endpoint
    ours: bool
    agreed_at: float
    rekey_at: float
    expires_at: float = math.inf
    sends_until: float = math.inf
    confirming: Backoff | None = None
    rekeyed: bool = False
    failed_rekeyings: int = 0
    offer: Offer | None = None
    proof: EndpointProof | None = None

    @property
    def keys(self) -> LinkKeys:
        """The SPIs and key material."""
        return self.agreement.secrets.keys

    @property
    def inbound_spi(self) -> Spi:
        """The SPI on which this node receives. It identifies the pair on this host."""
        return self.keys.inbound_spi

    def established(self, *, usable: bool) -> LinkEstablished:
        """Return the event that announces this pair."""
        return LinkEstablished(
            overlay_address=self.agreement.overlay_address,
            node_id=self.agreement.node_id,
            endpoint=self.endpoint,
            keys=self.keys,
            usable=usable,
            rekeyed=self.rekeyed,
        )

    def retired_event(self) -> LinkSaRetired:
        """Return the event on which the shell removes the outbound SA."""
        return LinkSaRetired(self.agreement.overlay_address, self.keys.inbound_spi)

    def removed_event(self) -> LinkSaRemoved:
        """Return the event on which the shell removes both SAs."""
        return LinkSaRemoved(
            self.agreement.overlay_address, self.keys.inbound_spi, self.keys.outbound_spi
        )
