"""Onions with any layer that a hostile neighbour likes."""

from __future__ import annotations

from random import Random
from typing import Protocol

from apm_fakes import NOW, Actor

from overlay.addresses import CircuitAddress, Endpoint, OverlayAddress, new_circuit_address
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.datagram import UdpDatagram
from overlay.apm.layer import ExitLayer, IpVersions, Layer, LayerTerms, RelayLayer
from overlay.apm.onion import OnionHop, construct_onion
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.sensitive import SecretBytes

RNG = Random(99)
NOWHERE = Endpoint("10.1.0.77", 4500)


class Sender(Protocol):
    """A neighbour of the target, of which only the name matters."""

    @property
    def address(self) -> OverlayAddress: ...


def terms(
    near: CircuitAddress, *, forward: int | None = None, backward: int | None = None
) -> LayerTerms:
    return LayerTerms(
        esp_suite=3,
        seed=SecretBytes(RNG.randbytes(32)),
        forward_spi=Spi(forward or RNG.randint(256, 2**32 - 1)),
        backward_spi=Spi(backward or RNG.randint(256, 2**32 - 1)),
        near=near,
        expires_min=int(NOW) // 60 + 5,
        lifetime_s=3600,
    )


def exit_layer(
    sender: Sender, target: Actor, near: CircuitAddress | None = None, **spis: int
) -> Layer:
    near = near or new_circuit_address(sender.address, target.address, RNG)
    return ExitLayer(terms(near, **spis), IpVersions.IPV4)


def relay_layer(
    sender: Sender,
    target: Actor,
    next_hop: OverlayAddress,
    far: CircuitAddress | None = None,
) -> Layer:
    far = far or new_circuit_address(target.address, next_hop, RNG)
    near = new_circuit_address(sender.address, target.address, RNG)
    return RelayLayer(terms(near), far, LinkPeer(next_hop, RNG.randbytes(32), NOWHERE))


def send(sender: Sender, target: Actor, layer: Layer, now: float = NOW) -> None:
    """Deliver an onion with any layer that the sender likes to the target alone."""
    hops = [OnionHop(target.identity.onion_key, layer)]
    if isinstance(layer, RelayLayer):
        behind = new_circuit_address(target.address, layer.next_hop.overlay_address, RNG)
        unread = ExitLayer(terms(behind), IpVersions.IPV4)
        hops.append(OnionHop(target.identity.onion_key, unread))
    message = construct_onion(1, hops, RNG)
    head = b"\1" + RNG.randbytes(8) + len(message).to_bytes(2, "big") + b"\0"
    target.hears(
        UdpDatagram(
            sender.address, target.address, SIGNALLING_PORT, SIGNALLING_PORT, head + message
        ),
        now=now,
    )
