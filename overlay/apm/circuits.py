"""The IPsec information of circuits, which the table stores and the translator reads.

Hops count from 1 at the source. ``near`` and ``far`` are the circuit addresses C(i-1) and
C(i) of hop i. The forward direction is away from the source.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.addresses import CircuitAddress, OverlayAddress
from overlay.apm.inner_addresses import InnerAddresses
from overlay.ipsec.interface import UNLIMITED, Lifetime, Spi
from overlay.link.security import LinkSecurity
from overlay.sensitive import SecretBytes

__all__ = [
    "ExitIpsecInfo",
    "OnionSas",
    "RelayIpsecInfo",
    "SourceIpsecInfo",
]


@dataclass(frozen=True, slots=True)
class OnionSas:
    """The two onion SAs between the source and one hop, as either end knows them.

    The forward SA runs from ``near`` to ``hop``, the backward SA from ``hop`` to ``near``. The
    reqids are local to this host and stay when the SAs are rekeyed. ``generation`` is the number
    of rekeys; the keys of the onion have generation 0. ``chain`` is a secret that the next rekey
    needs. ``own_spis`` are the SPIs that this host's allocator drew. ``lifetime`` limits each SA.
    """

    hop: OverlayAddress
    near: CircuitAddress
    esp_suite: int
    forward_spi: Spi
    backward_spi: Spi
    forward_keymat: SecretBytes
    backward_keymat: SecretBytes
    forward_reqid: int
    backward_reqid: int
    chain: SecretBytes
    generation: int = 0
    own_spis: tuple[Spi, ...] = ()
    lifetime: Lifetime = UNLIMITED


@dataclass(frozen=True, slots=True)
class SourceIpsecInfo:
    """A circuit at its source: the SAs of all hops, first hop first, and the first link."""

    hops: tuple[OnionSas, ...]
    link: LinkSecurity


@dataclass(frozen=True, slots=True)
class RelayIpsecInfo:
    """A circuit at a relay."""

    sas: OnionSas
    previous: LinkSecurity
    far: CircuitAddress
    next_hop: OverlayAddress
    next_link: LinkSecurity


@dataclass(frozen=True, slots=True)
class ExitIpsecInfo:
    """A circuit at its exit."""

    sas: OnionSas
    previous: LinkSecurity
    inner_addresses: InnerAddresses
