"""Create the plan of a circuit: SPIs, circuit addresses, keys and the layers of the onion.

The source draws all of them, including the SPIs of hops (docs/decisions/0029).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from overlay.addresses import (
    CircuitAddress,
    OverlayAddress,
    new_circuit_address,
    version_of,
)
from overlay.apm.circuits import OnionSas
from overlay.apm.keys import HopKeys, nesm_generate_sym_key
from overlay.apm.layer import ExitLayer, IpVersions, Layer, LayerTerms, RelayLayer
from overlay.apm.lifetimes import source_lifetime
from overlay.apm.onion import OnionHop
from overlay.apm.settings import EXPIRY_STEP_S, ApmSettings
from overlay.apm.spi import SpiAllocator
from overlay.dht.descriptor import MixDescriptor
from overlay.errors import LimitReached, NoSuitablePath
from overlay.ipsec.interface import BackendCapabilities, Lifetime, Spi
from overlay.link.events import LinkPeer
from overlay.selection.selector import MixPath

__all__ = [
    "CircuitPlan",
    "SpiPair",
    "allocate_spis",
    "check_path",
    "link_peer_of",
    "onion_sas",
    "plan_circuit",
]

SpiPair = tuple[Spi, Spi]
"""Forward and backward SPI of one hop."""


@dataclass(frozen=True, slots=True)
class CircuitPlan:
    """The SAs that the source installs, and the layers for the hops."""

    sas: tuple[OnionSas, ...]
    onion_hops: tuple[OnionHop, ...]


def check_path(
    path: MixPath, own: OverlayAddress, capabilities: BackendCapabilities, settings: ApmSettings
) -> None:
    """Check that a path can carry an own circuit.

    Raises:
        NoSuitablePath: the path is too long, contains a node twice or this node, or a hop does
            not support the suites. ``removed`` has the number of hops that fail each constraint.
    """
    most = min(settings.max_hops, capabilities.max_templates - 1)
    if not 1 <= len(path) <= most:
        raise NoSuitablePath(
            f"A circuit has 1 to {most} hops here, this path has {len(path)}.",
            known=len(path),
            removed=(("length", max(0, len(path) - most)),),
        )
    addresses = {hop.overlay_address for hop in path.hops}
    suites = capabilities.suites
    removed = (
        ("met twice", len(path) - len(addresses)),
        ("this node itself", int(own in addresses)),
        ("onion suite", sum(h.onion_key(settings.onion_suite) is None for h in path.hops)),
        ("ESP suite", sum(settings.esp_suite not in suites & {*h.esp_suites} for h in path.hops)),
        ("endpoint", sum(not h.endpoints for h in path.hops)),
    )
    if any(count for _, count in removed):
        raise NoSuitablePath(
            "The path has hops that cannot be part of this circuit.",
            known=len(path),
            removed=removed,
        )


def link_peer_of(descriptor: MixDescriptor, versions: Collection[int] = (4, 6)) -> LinkPeer:
    """Return the endpoints and the link key of a Mix-node, for a node with these IP versions.

    The endpoints keep the Mix-node's order of preference. If none has one of these versions, all
    are returned, because the node may support the version nevertheless.
    """
    fitting = [each for each in descriptor.endpoints if version_of(each) in versions]
    first, *others = fitting or descriptor.endpoints
    return LinkPeer(descriptor.overlay_address, descriptor.link_key, first, tuple(others))


def _versions(descriptor: MixDescriptor) -> frozenset[int]:
    return frozenset(map(version_of, descriptor.endpoints))


def allocate_spis(count: int, spis: SpiAllocator) -> list[SpiPair]:
    """Draw the SPIs of ``count`` hops; if one draw fails, no SPI stays allocated.

    Raises:
        LimitReached: too many SPIs are in use.
    """
    drawn: list[Spi] = []
    try:
        for _ in range(2 * count):
            drawn.append(spis.allocate())  # noqa: PERF401 - those drawn before a failure go back
    except LimitReached:
        for spi in drawn:
            spis.release(spi)
        raise
    return list(zip(drawn[::2], drawn[1::2], strict=True))


def plan_circuit(
    path: MixPath,
    families: IpVersions,
    spis: Sequence[SpiPair],
    *,
    own: OverlayAddress,
    settings: ApmSettings,
    rng: Random,
    new_reqid: Callable[[], int],
    now: float,
) -> CircuitPlan:
    """Return a plan with new circuit addresses and seeds for a path.

    All hops get the same expiry time. It is rounded up to five minutes, so that hops of one path
    cannot recognise each other by it.
    """
    nodes = (own, *(hop.overlay_address for hop in path.hops))
    near = [new_circuit_address(left, right, rng) for left, right in itertools.pairwise(nodes)]
    expires_s = math.ceil((now + settings.onion_validity_s) / EXPIRY_STEP_S) * EXPIRY_STEP_S
    terms = [
        LayerTerms(
            esp_suite=settings.esp_suite,
            seed=nesm_generate_sym_key(rng),
            forward_spi=forward,
            backward_spi=backward,
            near=address,
            expires_min=expires_s // 60,
            lifetime_s=int(settings.lifetime_s),
        )
        for address, (forward, backward) in zip(near, spis, strict=True)
    ]
    layers = _layers(path, terms, near, families)
    return CircuitPlan(
        sas=tuple(
            onion_sas(
                hop.overlay_address,
                hop_terms,
                HopKeys.derive(hop_terms.seed, hop_terms.esp_suite),
                new_reqid,
                lifetime=source_lifetime(settings, rng),
                own_spis=(hop_terms.forward_spi, hop_terms.backward_spi),
            )
            for hop, hop_terms in zip(path.hops, terms, strict=True)
        ),
        onion_hops=tuple(
            OnionHop(hop.onion_key(settings.onion_suite) or b"", layer)
            for hop, layer in zip(path.hops, layers, strict=True)
        ),
    )


def _layers(
    path: MixPath, terms: Sequence[LayerTerms], near: Sequence[CircuitAddress], families: IpVersions
) -> list[Layer]:
    relays: list[Layer] = [
        RelayLayer(terms[i], far=near[i + 1], next_hop=link_peer_of(after, _versions(hop)))
        for i, (hop, after) in enumerate(itertools.pairwise(path.hops))
    ]
    return [*relays, ExitLayer(terms[-1], families)]


def onion_sas(
    hop: OverlayAddress,
    terms: LayerTerms,
    keys: HopKeys,
    new_reqid: Callable[[], int],
    *,
    lifetime: Lifetime,
    own_spis: SpiPair | tuple[()] = (),
) -> OnionSas:
    """Return the SAs that the terms of a layer describe, with reqids and limits of this host."""
    return OnionSas(
        hop=hop,
        near=terms.near,
        esp_suite=terms.esp_suite,
        forward_spi=terms.forward_spi,
        backward_spi=terms.backward_spi,
        forward_keymat=keys.forward_keymat,
        backward_keymat=keys.backward_keymat,
        forward_reqid=new_reqid(),
        backward_reqid=new_reqid(),
        chain=keys.chain,
        own_spis=own_spis,
        lifetime=lifetime,
    )
