"""Every parser of Anonymous Paths Management: a value or our PeerError, whatever the bytes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from targets import TARGETS

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, CircuitAddress, OverlayAddress
from overlay.apm.carrier import SIGNALLING_PORT, OnionCarrier
from overlay.apm.control import CONTROL_BYTES, CONTROL_PORT
from overlay.apm.crypto import OnionPrivateKey, nesm_decrypt_data
from overlay.apm.datagram import UdpDatagram, build_datagram
from overlay.apm.geometry import GEOMETRIES, LAYER_BYTES
from overlay.apm.onion import SealedOnion, extract_onion_info
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.errors import LimitReached, PeerError
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.security import LinkSecurity
from overlay.sensitive import SecretBytes

KEY = OnionPrivateKey(1, SecretBytes(bytes(range(32))))
PEER = OverlayAddress(OVERLAY_PREFIX + bytes(12))
CIRCUIT = CircuitAddress(CIRCUIT_PREFIX + bytes(12))
SPARSE = st.integers(0, 255) | st.sampled_from([0, 1, 2, 3, 4, 5, 6])


def shaped(size: int) -> st.SearchStrategy[bytes]:
    """Bytes of the right size with small values often, so that fields are often plausible."""
    return st.lists(SPARSE, min_size=size, max_size=size).map(bytes)


BODY_BYTES = {1: 21, 2: 1, 3: 8, 4: 8, 5: 1, 6: 40, 7: 56, 8: 20, 9: 20}
PLAUSIBLE_CONTROL = st.builds(
    lambda version, kind, body, cut: (
        bytes((version, kind)) + body[: BODY_BYTES.get(kind, 62) - cut]
    ).ljust(CONTROL_BYTES, b"\0"),
    st.sampled_from([1, 2, 2, 2]),
    st.integers(0, 10),
    st.binary(min_size=62, max_size=62),
    st.sampled_from([0, 0, 0, 1, -1]),
)
"""A body of its kind's size, or one byte more or less, so that every kind's fields are parsed."""


@pytest.mark.slow
@given(st.binary(max_size=200) | shaped(CONTROL_BYTES))
@settings(deadline=None, max_examples=50)
def test_circuit_control_parses_to_its_one_encoding_or_peer_error(data: bytes) -> None:
    TARGETS["circuit_control"](data)


@pytest.mark.slow
@given(PLAUSIBLE_CONTROL)
@settings(deadline=None, max_examples=300)
def test_plausible_circuit_control_does_so_too(data: bytes) -> None:
    TARGETS["circuit_control"](data)


PLAUSIBLE_LAYER = st.builds(
    lambda kind, suite, spis, times, tail: (
        bytes((kind, suite)) + bytes(32) + spis + CIRCUIT + times + tail
    ),
    st.integers(0, 3),
    st.integers(0, 12),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
    shaped(LAYER_BYTES - 66),
)


@pytest.mark.slow
@given(st.binary(max_size=200) | shaped(LAYER_BYTES) | PLAUSIBLE_LAYER)
@settings(deadline=None, max_examples=50)
def test_layer_parses_to_its_one_encoding_or_peer_error(data: bytes) -> None:
    TARGETS["onion_layer"](data)


@given(st.binary(max_size=1300), st.sampled_from([b"", b"\x01\x01", b"\x01\x02"]), st.booleans())
@settings(deadline=None, max_examples=50)
def test_onion_of_any_bytes_is_a_peer_error(data: bytes, header: bytes, fit: bool) -> None:
    if header and fit:
        size = GEOMETRIES[header[1]].message_bytes
        data = (header + data).ljust(size, b"\0")[:size]
    try:
        extract_onion_info(SealedOnion.parse(data), KEY)
    except PeerError:
        return
    raise AssertionError("random bytes opened")


@given(st.binary(max_size=300))
@example(bytes(32))
@settings(deadline=None, max_examples=50)
def test_sealed_data_of_any_bytes_is_a_peer_error(data: bytes) -> None:
    try:
        nesm_decrypt_data(KEY, data, b"info")
    except PeerError:
        return
    raise AssertionError("random bytes opened")


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_packet_parses_to_a_datagram_or_peer_error(data: bytes) -> None:
    for packet in (data, b"\x60" + data, b"\x60\0\0\0" + data):
        TARGETS["signalling_packet"](packet)


SIGNALLING = st.builds(
    lambda kind, number, length, index, rest: (
        bytes((kind,)) + bytes([number] * 8) + length.to_bytes(2, "big") + bytes((index,)) + rest
    ),
    st.sampled_from([0, 1, 1, 1, 2, 3]),
    st.integers(0, 3),
    st.integers(0, 40) | st.integers(1072, 1080) | st.integers(0, 65535),
    st.integers(0, 3) | st.integers(0, 255),
    st.integers(0, 40).map(bytes) | st.just(bytes(1072)) | st.binary(max_size=50),
)


@given(st.lists(st.binary(max_size=60) | SIGNALLING, max_size=20))
@settings(deadline=None, max_examples=50)
def test_carrier_takes_any_payload_and_stays_bounded(payloads: list[bytes]) -> None:
    carrier = OnionCarrier(ApmSettings(), Random(1))
    for payload in payloads:
        try:
            message = carrier.receive(PEER, payload, 0.0)
        except (PeerError, LimitReached):
            continue
        assert message is None or 0 < len(message) <= 16 * 1072
    assert carrier.load().partly_received <= 8
    assert len(carrier.payloads_to_send()) <= len(payloads)
    carrier.handle_deadline(60.0)
    assert carrier.load() == (0, 0, 0)


def manager() -> tuple[SignallingManager, LocalIdentity]:
    identity = LocalIdentity.generate(Random(5))
    engine = UserspaceEngine(rng=Random(6))
    made = SignallingManager(
        identity, engine, SpiAllocator(Random(7)), ApmSettings(), Random(8), None, True
    )
    made.link_established(PEER, LinkSecurity(1, b"\1" * 4, b"\2" * 4), 0.0)
    return made, identity


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from([PEER, CIRCUIT, bytes(16)]),
            st.sampled_from([None, CIRCUIT, bytes(16)]),
            st.sampled_from([SIGNALLING_PORT, CONTROL_PORT, 53]),
            st.binary(max_size=80) | SIGNALLING | shaped(CONTROL_BYTES),
        ),
        max_size=10,
    ),
    st.lists(st.binary(max_size=80), max_size=5),
)
@settings(deadline=None, max_examples=30)
def test_manager_never_raises_and_never_spins(
    datagrams: list[tuple[bytes, bytes | None, int, bytes]], raw: list[bytes]
) -> None:
    node, identity = manager()
    packets = [
        build_datagram(
            UdpDatagram(source, destination or identity.overlay_address, port, port, payload)
        )
        for source, destination, port, payload in datagrams
    ]
    node.receive(packets + raw, 1.0)
    node.packets_to_send(1.0)
    for now in (1.0, 30.0, 90.0):
        node.handle_deadline(now)
        assert node.next_deadline() > now
    assert node.circuits() == []
