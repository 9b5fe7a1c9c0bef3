"""Every parser of bytes that others choose, under one contract: a value or our error.

A target takes any bytes and returns. It raises only if the code under test is wrong: anything
but the errors that its parser declares, or a value that does not encode to the same bytes.
The tests of hypothesis, the replay of the corpus and ``make fuzz`` run these same callables.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from esp_host import PEER, esp_host

from overlay.addresses import OVERLAY_PREFIX, Endpoint, OverlayAddress
from overlay.apm.carrier import OnionCarrier
from overlay.apm.control import encode_control, parse_control
from overlay.apm.crypto import OnionPrivateKey, nesm_decrypt_data
from overlay.apm.datagram import build_datagram, parse_datagram
from overlay.apm.layer import parse_layer
from overlay.apm.onion import SealedOnion, extract_onion_info
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.control.codec import (
    decode_report_list,
    decode_request,
    decode_response,
    encode_request,
    parse_destination,
    parse_hop,
)
from overlay.control.service import PathReport, PeerReport, StatusReport
from overlay.demultiplexer import demultiplex
from overlay.dht.core import Dht
from overlay.dht.descriptor import MixDescriptor, UnverifiedDescriptor
from overlay.dht.envelope import Envelopes, network_tag
from overlay.dht.envelope import parse_datagram as parse_dht_datagram
from overlay.dht.messages import Contact, MessageKind, Ping, parse_reply, parse_request
from overlay.dht.settings import DhtSettings
from overlay.dht.topology_store import TopologyStore
from overlay.errors import BackendError, ConfigurationError, LimitReached, Malformed, PeerError
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.forwarding.standard import StandardRules, StandardSettings
from overlay.forwarding.too_big import packet_too_big
from overlay.identity import LocalIdentity
from overlay.ipsec.headers import packet_length
from overlay.ipsec.interface import (
    Spi,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.transforms import new_transform
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.cookie import ReceiverKeys, with_macs
from overlay.link.exchange import Credentials
from overlay.link.handshake import GEOMETRY, InitiationPayload, ResponsePayload, parse_message
from overlay.link.links import Links
from overlay.link.security import LinkSecurity
from overlay.link.settings import LinkSettings
from overlay.offload.identification import Identifications
from overlay.offload.joining import joined
from overlay.offload.super_packets import cut_all
from overlay.offload.virtio import HEADER_BYTES, described, received
from overlay.sensitive import SecretBytes
from overlay.wire import unpack_bounded

__all__ = ["ALICE", "BOB", "DESCRIPTOR_LABEL", "HERE", "NETWORK", "ONION_KEY", "TARGETS", "Target"]

Target = Callable[[bytes], None]

NETWORK: Final = "test"
NOW: Final = 1_800_000_000.0
ALICE: Final = LocalIdentity.generate(Random(1))
BOB: Final = LocalIdentity.generate(Random(2))
HERE: Final = Endpoint("80.1.2.3", 4500)
ONION_KEY: Final = OnionPrivateKey(1, ALICE.onion_private)
DESCRIPTOR_LABEL: Final = b"overlay mix descriptor v1\0"
_TAG: Final = network_tag(NETWORK)
_PEER: Final = OverlayAddress(OVERLAY_PREFIX + bytes(12))
_KEYS: Final = ReceiverKeys.of(ALICE.link_key, Credentials.of(ALICE, NETWORK, (3,)).network_hash)
_REQUEST: Final = Envelopes(ALICE, NETWORK).request(
    Ping(), request_id=b"i" * 12, responder=BOB.node_id, sent_to=HERE, cookie=b""
)

TARGETS: dict[str, Target] = {}


def _target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


# --- links ---


@_target
def link_message(data: bytes) -> None:
    """A message of the link channel, and what Noise would have decrypted."""
    with contextlib.suppress(PeerError):
        parse_message(data)
    for payload in (InitiationPayload, ResponsePayload):
        with contextlib.suppress(PeerError):
            assert payload.parse(data).encode() == data
    demultiplex([(data, HERE)])


@_target
def link_channel(data: bytes) -> None:
    """Datagrams at the responder, as they are and as initiations with a valid mac1."""
    spis = count(1000)
    links = Links(
        ALICE, NETWORK, LinkSettings(), Random(3), lambda: Spi(next(spis)), lambda _: None
    )
    body = data.ljust(GEOMETRY.initiation - 2 * GEOMETRY.mac, b"\0")
    body = b"\x01\x01" + body[2 : GEOMETRY.initiation - 2 * GEOMETRY.mac]
    links.receive([(data, HERE), (with_macs(body, _KEYS, None), HERE)], NOW)
    links.handle_deadline(NOW)
    assert links.next_deadline() > NOW
    assert len(links) <= 1


# --- DHT ---


@_target
def dht_envelope(data: bytes) -> None:
    """A signed request, a reply or a challenge."""
    with contextlib.suppress(PeerError):
        message = parse_dht_datagram(data, _TAG)
        if hasattr(message, "request"):
            message.verify(NETWORK)
        elif hasattr(message, "verify"):
            message.verify(NETWORK, _REQUEST)


@_target
def dht_message(data: bytes) -> None:
    """The body of a message, behind its kind: the first byte, and msgpack."""
    try:
        kind, body = MessageKind(data[0] if data else 0), unpack_bounded(data[1:], max_bytes=1200)
    except (ValueError, PeerError):
        return
    for parse in (parse_request, parse_reply):
        if isinstance(body, list):
            with contextlib.suppress(PeerError):
                parse(kind, body)
    with contextlib.suppress(PeerError):
        Contact.decode(body)


@_target
def dht_core(data: bytes) -> None:
    """A datagram at the core of the DHT."""
    dht = Dht(BOB, network_id=NETWORK, settings=DhtSettings(), rng=Random(3))
    dht.receive([(data, HERE)], NOW)
    dht.handle_deadline(NOW)
    assert dht.next_deadline() > NOW
    assert dht.contact_count == 0


@_target
def descriptor(data: bytes) -> None:
    """A Mix-node's descriptor: its bytes, and its body under a valid signature."""
    for encoded in (data, data + ALICE.sign(DESCRIPTOR_LABEL + data)):
        with contextlib.suppress(PeerError):
            verified = UnverifiedDescriptor.parse(encoded).verify(network_id=NETWORK, now=1000.0)
            assert isinstance(verified, MixDescriptor)
            assert verified.encoded == encoded


@_target
def exit_policy(data: bytes) -> None:
    """The exit policy of a descriptor, as msgpack."""
    with contextlib.suppress(PeerError):
        value = unpack_bounded(data, max_bytes=1200)
        assert ExitPolicy.decode(value).encode() == value


@functools.cache
def _good_store() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "topology")
        with TopologyStore(path, NETWORK) as store:
            from seeds import signed_descriptor

            parsed = UnverifiedDescriptor.parse(signed_descriptor())
            store.save([parsed.verify(network_id=NETWORK, now=1000.0)], 1000.0)
        return path.read_bytes()


@_target
def topology_store(data: bytes) -> None:
    """A damaged file: each four bytes put three others at a place of a good one, or cut it."""
    content = bytearray(_good_store())
    for start in range(0, len(data) - 4, 5):
        place = int.from_bytes(data[start : start + 2], "big") % len(content)
        if data[start + 2] == 0xFF:
            del content[place + 1 :]
        content[place : place + 2] = data[start + 3 : start + 5]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory, "topology")
        path.write_bytes(content)
        with (
            contextlib.suppress(ConfigurationError, BackendError),
            TopologyStore(path, NETWORK) as store,
        ):
            store.load(1000.0)
            store.bootstrap_hints()
            store.save([], 1000.0)


# --- circuits ---


@_target
def onion(data: bytes) -> None:
    """An onion signalling message, and sealed data behind its header."""
    with contextlib.suppress(PeerError):
        extract_onion_info(SealedOnion.parse(data), ONION_KEY)
    with contextlib.suppress(PeerError):
        nesm_decrypt_data(ONION_KEY, data, b"info")


@_target
def onion_layer(data: bytes) -> None:
    """One hop's layer of an onion."""
    with contextlib.suppress(PeerError):
        assert parse_layer(data).encode() == data


@_target
def circuit_control(data: bytes) -> None:
    """A control message of a circuit."""
    with contextlib.suppress(PeerError):
        assert encode_control(parse_control(data)) == data


@_target
def signalling_packet(data: bytes) -> None:
    """An IPv6 packet with UDP in it, behind the link SA."""
    with contextlib.suppress(PeerError):
        datagram = parse_datagram(data)
        assert parse_datagram(build_datagram(datagram)) == datagram


def _chunks(data: bytes) -> list[bytes]:
    """Cut bytes into pieces: a length of two bytes, then so many."""
    found = []
    while data:
        size = int.from_bytes(data[:2], "big") % 1200
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


@_target
def carrier(data: bytes) -> None:
    """Fragments and acknowledgements of one neighbour."""
    made = OnionCarrier(ApmSettings(), Random(1))
    payloads = _chunks(data)
    for payload in payloads:
        with contextlib.suppress(PeerError, LimitReached):
            message = made.receive(_PEER, payload, 0.0)
            assert message is None or 0 < len(message) <= 16 * 1072
    assert len(made.payloads_to_send()) <= len(payloads)
    made.handle_deadline(60.0)
    assert made.next_deadline() > 60.0


@_target
def signalling(data: bytes) -> None:
    """Packets at the signalling manager: never raises, never spins, opens nothing."""
    engine = UserspaceEngine(rng=Random(6))
    node = SignallingManager(
        ALICE, engine, SpiAllocator(Random(7)), ApmSettings(), Random(8), None, relay=True
    )
    node.link_established(_PEER, LinkSecurity(1, b"\1" * 4, b"\2" * 4), 0.0)
    node.receive(_chunks(data), 1.0)
    for now in (1.0, 30.0, 90.0):
        node.handle_deadline(now)
        assert node.next_deadline() > now
    node.packets_to_send(90.0)
    assert node.circuits() == []


# --- packets ---


@_target
def esp_packet(data: bytes) -> None:
    """Any datagram, and any plaintext of a neighbour that has the link's keys."""
    made = esp_host()
    plaintext = data[:1200]
    plaintext += bytes(-len(plaintext) % 4) or b""
    transform = new_transform(SUITES[3], bytes(SUITES[3].keymat_bytes), 0x700, Random(1), esn=True)
    sealed = transform.seal(1, plaintext or bytes(4))
    for datagram in (data, b"\0\0\7\0" + data, sealed):
        made.process_inbound([(datagram, PEER)], 1.0)
    made.process_outbound([data], 1.0)
    assert 0 <= packet_length(data, len(data)) <= len(data)


@functools.cache
def _all() -> ExitPolicy:
    import ipaddress

    networks = [ipaddress.ip_network(text) for text in ("0.0.0.0/0", "::/0")]
    return ExitPolicy(tuple(ExitRule(accept=True, network=network) for network in networks))


@_target
def inner_packet(data: bytes) -> None:
    """A packet of an application at the source, and of a circuit at the exit."""
    rules = StandardRules(StandardSettings(), _all(), frozenset, rng=random.Random(1))
    left = rules.at_source([data])
    dropped = sum(n for name, n in rules.counters().items() if name.startswith("dropped_"))
    assert len(left) + dropped == 1
    assert len(rules.at_source(left)) == len(left), "what we send, we would send"
    assert rules.at_exit(left) in ([], left)
    assert rules.at_exit([data]) in ([], [data])
    packet_too_big(data, 576)


@_target
def super_packet(data: bytes) -> None:
    """A frame of a device with offload, and packets of a circuit before they are joined."""
    for packet in received(memoryview(data), 576):
        assert packet in data or len(packet) <= len(data)
    for segment_bytes in (60, 576, len(data)):
        cut_all([data], segment_bytes)
        written = b"".join(described(data, segment_bytes)) if data else b""
        assert len(written) == (len(data) + HEADER_BYTES if data else 0)
    length = packet_length(data, len(data))
    if length:
        packets = [data[:length], data[length:], data[:length]]
        packets = [each for each in packets if packet_length(each, len(each)) == len(each) > 0]
        for segment_bytes in (60, 576, length):
            whole = joined(packets, segment_bytes)
            assert sum(map(len, whole)) <= sum(map(len, packets))
            assert len(Identifications(SecretBytes(bytes(16)), 576).chosen(whole)) == len(whole)


# --- the user's programs ---


@_target
def control_socket(data: bytes) -> None:
    """A line at the control socket, at either end, and the texts in it."""
    with contextlib.suppress(Malformed):
        request = decode_request(data)
        assert decode_request(encode_request(request)[:-1]) == request
    with contextlib.suppress(Malformed):
        decode_response(data)
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        for report in (StatusReport, PeerReport, PathReport):
            with contextlib.suppress(Malformed):
                decode_report_list(report, value)
    text = data.decode(errors="replace")
    for parse in (parse_destination, parse_hop):
        with contextlib.suppress(Malformed):
            parse(text)
