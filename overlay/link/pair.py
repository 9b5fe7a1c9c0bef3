"""One pair of link SAs in the eyes of the link that owns it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from overlay.addresses import Endpoint
from overlay.ipsec.model import Spi
from overlay.link.backoff import Backoff
from overlay.link.exchange import Agreement
from overlay.link.model import LinkEstablished, LinkKeys, LinkSaRetired, LinkSaSuperseded

__all__ = ["SaPair"]


@dataclass(slots=True, eq=False)
class SaPair:
    """An agreed pair and its timers, in seconds of Unix time.

    ``ours`` tells whether our initiation made it. ``address_proved`` tells whether the peer's
    initiation brought a valid cookie. ``expires_at`` is when an offered pair
    was not confirmed in time, or an old one has had its grace. ``sends_until`` is when the
    outbound SA of a pair that was replaced goes. ``confirming`` runs at the initiator until
    the responder has acknowledged that it knows the pair to be in use.
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
    address_proved: bool = False

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

    def superseded(self) -> LinkSaSuperseded:
        """Return the event that takes its outbound SA away."""
        return LinkSaSuperseded(self.agreement.overlay_address, self.keys.inbound_spi)

    def retired(self) -> LinkSaRetired:
        """Return the event that takes it away."""
        return LinkSaRetired(
            self.agreement.overlay_address, self.keys.inbound_spi, self.keys.outbound_spi
        )
