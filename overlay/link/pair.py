"""One pair of link SAs in the eyes of the link that owns it."""

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
"""How many endpoints a responder remembers to which the answer to one initiation went."""


@dataclass(slots=True, eq=False)
class Offer:
    """What a responder remembers of an initiation until the pair is confirmed.

    ``initiation`` is its mac1, by which a copy from elsewhere is known; ``answer`` goes there
    as well, because the copy may have been the first to arrive. ``address_proved`` tells
    whether it brought a valid cookie.
    """

    initiation: bytes
    answer: bytes
    sources: list[Endpoint]
    address_proved: bool

    def answer_again(self, initiation: bytes, source: Endpoint) -> bool:
        """Tell whether a copy of the initiation that came from ``source`` is to be answered."""
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

    ``ours`` tells whether our initiation made it. ``offer`` is there while the pair is offered,
    ``proof`` as long as the pair is the peer's and in use: it decides where the peer is.
    ``expires_at`` is when an offered pair was not confirmed in time, or an old one has had its
    grace. ``sends_until`` is when the outbound SA of a pair that was replaced goes. ``confirming``
    runs at the initiator until the responder has acknowledged that it knows the pair to be in use.
    ``failed_rekeyings`` counts attempts to replace it that got no answer.
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
        """The SPI on which we receive: the pair's name on this host."""
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

    def superseded(self) -> LinkSaRetired:
        """Return the event that takes its outbound SA away."""
        return LinkSaRetired(self.agreement.overlay_address, self.keys.inbound_spi)

    def retired(self) -> LinkSaRemoved:
        """Return the event that takes it away."""
        return LinkSaRemoved(
            self.agreement.overlay_address, self.keys.inbound_spi, self.keys.outbound_spi
        )
