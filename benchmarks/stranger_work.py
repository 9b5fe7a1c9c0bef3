"""Measure the operations that an unauthenticated sender can cause, for ``overlay.work_budget``.

Run ``python benchmarks/stranger_work.py``. It prints the milliseconds of one core for each
operation, as the minimum of five rounds, because other load only adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from overlay.addresses import CircuitAddress, Endpoint
from overlay.apm.crypto import OnionPrivateKey
from overlay.apm.layer import ExitLayer, IpVersions, LayerTerms
from overlay.apm.onion import OnionHop, SealedOnion, construct_onion, extract_onion_info
from overlay.apm.rekey_keys import EphemeralKey
from overlay.identity import LocalIdentity, verify_signature
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.link.links import Links
from overlay.link.settings import LinkSettings
from overlay.sensitive import SecretBytes

ROUNDS, TIMES = 5, 200
START = 1_800_000_000.0
HERE, THERE = Endpoint("8.8.8.8", 4500), Endpoint("9.9.9.9", 4500)


def cost_ms(prepare: Callable[[], Callable[[], object]]) -> float:
    """Return the least mean of some rounds, without the time of ``prepare``."""
    least = float("inf")
    for _ in range(ROUNDS):
        operations = [prepare() for _ in range(TIMES)]
        began = time.process_time()
        for operation in operations:
            operation()
        least = min(least, time.process_time() - began)
    return least / TIMES * 1000


def initiations(rng: Random) -> Callable[[], Callable[[], object]]:
    """Prepare initiations of new identities, for a responder that knows none of them."""
    own = LocalIdentity.generate(rng)
    spis = count(1000)
    settings = LinkSettings(
        max_links=100_000,
        max_accepted_links=100_000,
        max_accepted_links_per_prefix=100_000,
        max_half_open=100_000,
        max_half_open_per_prefix=100_000,
        cookie_above_initiations_per_s=100_000,
    )
    responder = Links(own, "lab", settings, rng, lambda: Spi(next(spis)), lambda _: None)
    peer = LinkPeer(own.overlay_address, own.link_key, HERE)
    seconds = count(1)

    def prepare() -> Callable[[], object]:
        stranger = Links(
            LocalIdentity.generate(rng),
            "lab",
            LinkSettings(),
            rng,
            lambda: Spi(1000),
            lambda _: None,
        )
        stranger.connect(peer, START)
        [(message, _)] = stranger.datagrams_to_send(START)
        return lambda: responder.receive([(message, THERE)], START + next(seconds) / 10)

    return prepare


def onions(rng: Random) -> Callable[[], Callable[[], object]]:
    """Prepare onions of one layer."""
    identity = LocalIdentity.generate(rng)
    key = OnionPrivateKey(1, identity.onion_private)
    terms = LayerTerms(
        esp_suite=3,
        seed=SecretBytes(rng.randbytes(32)),
        forward_spi=Spi(1000),
        backward_spi=Spi(1001),
        near=CircuitAddress(bytes.fromhex("fd636972") + bytes(12)),
        expires_min=1,
        lifetime_s=60,
    )
    hops = [OnionHop(identity.onion_key, ExitLayer(terms, IpVersions.IPV4))]

    def prepare() -> Callable[[], object]:
        message = construct_onion(1, hops, rng)
        return lambda: extract_onion_info(SealedOnion.parse(message), key)

    return prepare


def offers(rng: Random) -> Callable[[], Callable[[], object]]:
    """Prepare the two scalar multiplications of an offer of new keys."""
    peer = X25519PublicKey.from_public_bytes(LocalIdentity.generate(rng).onion_key)

    def exchange() -> None:
        X25519PrivateKey.from_private_bytes(EphemeralKey(rng).share).exchange(peer)

    return lambda: exchange


def signatures(rng: Random) -> Callable[[], Callable[[], object]]:
    """Prepare signatures."""
    identity = LocalIdentity.generate(rng)

    def prepare() -> Callable[[], object]:
        message = rng.randbytes(500)
        signature = identity.sign(message)
        return lambda: verify_signature(identity.identity_key, signature, message)

    return prepare


def main() -> None:
    """Print the table."""
    rng = Random(1)
    for name, prepared in (
        ("link initiation", initiations(rng)),
        ("onion, opened alone", onions(rng)),
        ("new keys, X25519 alone", offers(rng)),
        ("signature", signatures(rng)),
    ):
        print(f"{name:24}{cost_ms(prepared):8.3f} ms")


if __name__ == "__main__":
    main()
