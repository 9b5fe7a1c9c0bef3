"""Measure the userspace IPsec engine, and compare it with bare AEAD calls on the same bytes.

Run ``python benchmarks/datapath.py [--json] [--repetitions N]``. The bare counterpart of an
operation is as many calls of ``cryptography``'s AES-256-GCM, on the same plaintexts and
ciphertexts. Both are measured in turn, so that other load affects both. Figures are medians, in
microseconds per packet. Sizes are those of the user's packet.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4
from overlay.ipsec.interface import (
    ANY_V6,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.sensitive import SecretBytes

SIZES = (64, 512, 1400)
BATCH = 64
SUITE = 3
NOW = 1_700_000_000.0
INNER, BOB = bytes((100, 64, 0, 7)), bytes((192, 0, 2, 80))
ALICE_UDP, MIX1_UDP, MIX2_UDP = (Endpoint(f"198.51.100.{i}", 4500) for i in (1, 2, 3))

Work = Callable[[], float]
"""Prepare one batch, untimed, then process it; return the seconds that processing took."""


@dataclass(frozen=True)
class Figure:
    """One row: medians in microseconds per packet, and engine over bare AEAD calls."""

    operation: str
    size: int
    engine_us: float
    bare_us: float
    ratio: float


def overlay(index: int) -> bytes:
    return OVERLAY_PREFIX + index.to_bytes(12, "big")


def circuit(index: int) -> bytes:
    return CIRCUIT_PREFIX + index.to_bytes(12, "big")


def association(
    spi: int,
    source: bytes,
    destination: bytes,
    *,
    inbound: bool,
    udp: tuple[Endpoint, Endpoint] | None = None,
) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=spi,
        source=source,
        destination=destination,
        suite=SUITE,
        keymat=SecretBytes(Random(spi).randbytes(36)),
        inbound=inbound,
        encapsulation=None if udp is None else UdpEncapsulation(*udp),
    )


def link(
    spi: int, source: Endpoint, destination: Endpoint, *, inbound: bool
) -> SecurityAssociation:
    return association(
        spi, source.packed, destination.packed, inbound=inbound, udp=(source, destination)
    )


def policy(
    direction: PolicyDirection, source: Prefix, destination: Prefix, *chain: SecurityAssociation
) -> SecurityPolicy:
    templates = tuple(Template(sa.source, sa.destination, sa.reqid) for sa in chain)
    return SecurityPolicy(direction, Selector(source, destination), templates)


def source_engine(hops: int) -> UserspaceEngine:
    """Return the engine of a source; the first onion SA of its circuit has SPI 1001."""
    engine = UserspaceEngine(rng=Random(1))
    onions = [association(1001 + i, circuit(i), overlay(i + 1), inbound=False) for i in range(hops)]
    to_mix1 = link(500, ALICE_UDP, MIX1_UDP, inbound=False)
    chain = (*reversed(onions), to_mix1)
    out = policy(PolicyDirection.OUT, Prefix.host(INNER), Prefix.host(BOB), *chain)
    engine.install(IpsecConfiguration((*onions, to_mix1), (out,)))
    return engine


def relay_configuration(index: int, spi: int) -> IpsecConfiguration:
    """Return what a relay installs for one circuit: two onion SAs and six policies."""
    before, after = circuit(2 * index), circuit(2 * index + 1)
    forward = association(spi, before, overlay(1), inbound=True)
    backward = association(spi + 1, overlay(1), before, inbound=False)
    from_alice = link(500, ALICE_UDP, MIX1_UDP, inbound=True)
    to_alice = link(501, MIX1_UDP, ALICE_UDP, inbound=False)
    to_mix2 = link(502, MIX1_UDP, MIX2_UDP, inbound=False)
    from_mix2 = link(503, MIX2_UDP, MIX1_UDP, inbound=True)
    here, prefix_before, prefix_after, onward = (
        Prefix.host(a) for a in (overlay(1), before, after, overlay(2))
    )
    policies = (
        policy(PolicyDirection.FWD, prefix_after, onward, forward, from_alice),
        policy(PolicyDirection.OUT, prefix_after, onward, to_mix2),
        policy(PolicyDirection.FWD, ANY_V6, prefix_after, from_mix2),
        policy(PolicyDirection.OUT, ANY_V6, prefix_after, backward, to_alice),
        policy(PolicyDirection.IN, prefix_before, here, forward, from_alice),
        policy(PolicyDirection.OUT, here, prefix_before, backward, to_alice),
    )
    return IpsecConfiguration((forward, backward), policies)


def relay_engine() -> UserspaceEngine:
    """Return the engine of a relay, with its links and the circuit of :func:`source_engine`."""
    engine = UserspaceEngine(rng=Random(2))
    links = (
        link(500, ALICE_UDP, MIX1_UDP, inbound=True),
        link(501, MIX1_UDP, ALICE_UDP, inbound=False),
        link(502, MIX1_UDP, MIX2_UDP, inbound=False),
        link(503, MIX2_UDP, MIX1_UDP, inbound=True),
    )
    engine.install(IpsecConfiguration(links, (), (overlay(1),)))
    engine.install(relay_configuration(0, 1001))
    return engine


def ipv4_packet(size: int) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, 17, 0)
    return header + INNER + BOB + Random(size).randbytes(size - 20)


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def bare_work(seals: list[int], opens: list[int]) -> Work:
    """Return AEAD calls on plaintexts of these sizes, with prepared arguments."""
    aead, nonce, associated = AESGCM(bytes(32)), bytes(12), bytes(12)
    plaintexts = [bytes(size) for size in seals]
    ciphertexts = [aead.encrypt(nonce, bytes(size), associated) for size in opens]
    encrypt, decrypt = aead.encrypt, aead.decrypt

    def calls() -> None:
        for _ in range(BATCH):
            for ciphertext in ciphertexts:
                decrypt(nonce, ciphertext, associated)
            for plaintext in plaintexts:
                encrypt(nonce, plaintext, associated)

    return lambda: timed(calls)


def plaintext_bytes(esp_payload: int) -> int:
    """Return the size of a plaintext: payload, padding to 4 bytes, pad length, next header."""
    return esp_payload + 2 + -(esp_payload + 2) % 4


def onion_bytes(size: int, layers: int) -> int:
    """Return the size of a packet inside ``layers`` onion SAs."""
    for _ in range(layers):
        size = 40 + 8 + 8 + plaintext_bytes(size) + 16
    return size


def seal_work(size: int) -> Work:
    sa = OutboundSa(link(500, ALICE_UDP, MIX1_UDP, inbound=False), Random(1), lambda _: None)
    packet = ipv4_packet(size)

    def seals() -> None:
        for _ in range(BATCH):
            sa.seal(packet, IPV4, NOW)

    return lambda: timed(seals)


def open_work(size: int) -> Work:
    sealing = OutboundSa(link(500, ALICE_UDP, MIX1_UDP, inbound=False), Random(1), lambda _: None)
    opening = InboundSa(link(500, ALICE_UDP, MIX1_UDP, inbound=True), Random(1), lambda _: None)
    packet = ipv4_packet(size)

    def work() -> float:
        sealed = [
            s for _ in range(BATCH) if isinstance(s := sealing.seal(packet, IPV4, NOW), bytes)
        ]

        def opens() -> None:
            for esp in sealed:
                opening.open(esp, 0, NOW)

        seconds = timed(opens)
        if opening.packets % BATCH:
            raise RuntimeError("a packet was dropped")
        return seconds

    return work


def relay_work(size: int) -> Work:
    alice, mix1, packet = source_engine(2), relay_engine(), ipv4_packet(size)

    def work() -> float:
        datagrams = alice.process_outbound([packet] * BATCH, NOW).to_network
        begin = time.perf_counter()
        processed = mix1.process_inbound(datagrams, NOW)
        seconds = time.perf_counter() - begin
        if len(processed.to_network) != BATCH:
            raise RuntimeError("a packet was dropped")
        return seconds

    return work


def source_work(size: int) -> Work:
    alice, packets = source_engine(3), [ipv4_packet(size)] * BATCH
    return lambda: timed(lambda: alice.process_outbound(packets, NOW))


def operations(size: int) -> dict[str, tuple[Work, Work]]:
    """Return each operation with the AEAD calls that it needs.

    The size at the relay is that of the packet inside the onion SAs of two hops. The link carries
    both layers, and the first onion SA carries one.
    """
    one = plaintext_bytes(size)
    layers = [plaintext_bytes(onion_bytes(size, n)) for n in range(4)]
    return {
        "ESP seal": (seal_work(size), bare_work([one], [])),
        "ESP open": (open_work(size), bare_work([], [one])),
        "relay forward": (relay_work(size), bare_work([layers[1]], [layers[2], layers[1]])),
        "source, 3 hops": (source_work(size), bare_work(layers, [])),
    }


def measure(repetitions: int) -> list[Figure]:
    figures = []
    for size in SIZES:
        for name, (engine_work, bare) in operations(size).items():
            engine_times, bare_times = [], []
            for _ in range(repetitions):
                engine_times.append(engine_work())
                bare_times.append(bare())
            engine_us = statistics.median(engine_times) / BATCH * 1e6
            bare_us = statistics.median(bare_times) / BATCH * 1e6
            figures.append(Figure(name, size, engine_us, bare_us, engine_us / bare_us))
    return figures


def memory_per_circuit(circuits: int = 1000) -> float:
    """Return the bytes of a relay's engine for one idle circuit, by tracemalloc.

    The configurations are built inside and dropped, so only the parts that the engine keeps count.
    Ciphers are built at the first packet, so an idle circuit has none. A circuit in use also has
    OpenSSL's contexts, which tracemalloc does not see.
    """
    engine = relay_engine()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for index in range(1, circuits + 1):
        engine.install(relay_configuration(index, 2000 + 2 * index))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / circuits


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the userspace IPsec engine.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repetitions", type=int, default=201, help="batches of 64 (201)")
    arguments = parser.parse_args()
    figures, idle_bytes = measure(arguments.repetitions), memory_per_circuit()
    if arguments.json:
        rows = [asdict(figure) for figure in figures]
        print(json.dumps({"figures": rows, "idle_circuit_bytes": idle_bytes}, indent=1))
        return
    print(f"{'operation':<16}{'bytes':>6}{'engine us':>11}{'bare us':>9}{'ratio':>7}")
    for f in figures:
        print(f"{f.operation:<16}{f.size:>6}{f.engine_us:>11.2f}{f.bare_us:>9.2f}{f.ratio:>7.2f}")
    print(f"idle circuit at a relay: {idle_bytes:.0f} bytes (Python heap; no cipher exists yet)")


if __name__ == "__main__":
    main()
