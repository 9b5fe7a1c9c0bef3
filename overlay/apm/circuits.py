"""Circuits as values: what the soft state remembers and the translator needs to know.

Hops count from 1 at the source. ``near`` and ``far`` are the circuit addresses C(i-1) and
C(i) of hop i; forward is away from the source.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.addresses import CircuitAddress, OverlayAddress
from overlay.apm.inner_addresses import InnerAddresses
from overlay.ipsec.interface import UNLIMITED, Lifetime, Spi
from overlay.sensitive import SecretBytes

__all__ = [
    "ExitIpsecInfo",
    "LinkSecurity",
    "OnionSas",
    "RelayIpsecInfo",
    "SourceIpsecInfo",
]


@dataclass(frozen=True, slots=True)
class LinkSecurity:
    """How policies name a link: its reqid, and both packed underlay addresses.

    One reqid serves both directions; templates tell them apart by their addresses.
    """

    reqid: int
    local: bytes
    remote: bytes


@dataclass(frozen=True, slots=True)
class OnionSas:
    """The two onion SAs between the source and one hop, as either end knows them.

    Forward they run from ``near`` to ``hop``, backward from ``hop`` to ``near``. The
    reqids are this host's own and outlast the SAs, which are replaced while the circuit lives:
    ``generation`` counts the exchanges of keys (0 are the onion's), ``chain`` is the secret
    that the next one must know. ``own_spis`` are those that this host's allocator drew;
    ``lifetime`` limits either SA.
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
    """A circuit at its source: every hop's SAs, first hop first, over the first link."""

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
