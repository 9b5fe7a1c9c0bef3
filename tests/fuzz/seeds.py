"""Valid inputs of every fuzz target, made by our encoders, and what is nearly valid.

``python tests/fuzz/seeds.py`` writes them to ``tests/fuzz/corpus/<target>/``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from targets import ALICE, BOB, DESCRIPTOR_LABEL, HERE, NETWORK, TARGETS

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, CircuitAddress, OverlayAddress
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_BYTES, CONTROL_PORT
from overlay.apm.datagram import UdpDatagram, build_datagram
from overlay.apm.layer import ExitLayer, IpVersions, LayerTerms, RelayLayer
from overlay.apm.onion import OnionHop, construct_onion
from overlay.dht.envelope import Envelopes
from overlay.dht.help_messages import Meet, SendProbe, WantProbe
from overlay.dht.messages import Contact, FindNode, FindRecord, Leave, Ping, Store
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.link.handshake import GEOMETRY
from overlay.link.links import Links
from overlay.link.settings import LinkSettings
from overlay.sensitive import SecretBytes
from overlay.wire import pack_canonical

__all__ = ["CORPUS", "seeds", "signed_descriptor", "write"]

CORPUS = Path(__file__).parent / "corpus"

_NOW = 1_800_000_000.0
_NEAR = CircuitAddress(CIRCUIT_PREFIX + bytes(12))
_PEER = OverlayAddress(OVERLAY_PREFIX + bytes(12))
_CONTROL_BODIES = {1: 21, 2: 1, 3: 8, 4: 8, 5: 1, 6: 40, 7: 56, 8: 20, 9: 20}
"""Bytes behind version and kind; docs/formats/circuit-control.md."""


def _policy() -> ExitPolicy:
    rules = (
        ExitRule(True, ipaddress.ip_network("0.0.0.0/0"), 80, 443),
        ExitRule(False, ipaddress.ip_network("2001:db8::/32")),
        ExitRule(True, ipaddress.ip_network("::/0")),
    )
    return ExitPolicy(rules, (ipaddress.ip_network("10.0.0.0/8"),))


def _descriptor_body() -> bytes:
    return pack_canonical(
        [
            1,
            NETWORK,
            ALICE.identity_key,
            [[1, ALICE.onion_key]],
            ALICE.link_key,
            [3, 4],
            [[HERE.packed, HERE.port], [bytes(range(16)), 4500]],
            3,
            _policy().encode(),
            10_000,
            7,
            900,
            9_000,
        ]
    )


def signed_descriptor() -> bytes:
    """Return a good descriptor of ALICE, valid from second 900 to 9,000."""
    body = _descriptor_body()
    return body + ALICE.sign(DESCRIPTOR_LABEL + body)


def _link_messages() -> list[bytes]:
    rng = Random(5)
    hosts = {}
    for name, identity in (("alice", ALICE), ("bob", BOB)):
        spis = iter(range(1000, 2000))
        hosts[name] = Links(
            identity, NETWORK, LinkSettings(), rng, lambda s=spis: Spi(next(s)), lambda _: None
        )
    hosts["bob"].connect(LinkPeer(ALICE.overlay_address, ALICE.link_key, HERE), _NOW)
    messages = []
    for sender, receiver in (("bob", "alice"), ("alice", "bob"), ("bob", "alice")):
        sent = hosts[sender].datagrams_to_send(_NOW)
        messages += [data for data, _ in sent]
        hosts[receiver].receive([(data, HERE) for data, _ in sent], _NOW)
    hosts["alice"].close_all(_NOW)
    messages += [data for data, _ in hosts["alice"].datagrams_to_send(_NOW)]
    sizes = (GEOMETRY.initiation, GEOMETRY.response, GEOMETRY.cookie_reply, GEOMETRY.notice)
    return messages + [bytes((kind, 1)).ljust(size, b"\7") for kind in range(6) for size in sizes]


def _payloads() -> list[bytes]:
    proof = ALICE.identity_key + bytes(64)
    return [
        struct.pack(">QI", 1, 1000) + bytes((3, 4, 2, 1)) + proof,
        bytes((3,)) + struct.pack(">I", 1000) + proof,
    ]


def _dht_requests() -> list[bytes]:
    envelopes = Envelopes(ALICE, NETWORK)
    return [
        envelopes.request(
            request, request_id=b"i" * 12, responder=BOB.node_id, sent_to=HERE, cookie=cookie
        )
        for cookie in (b"", b"c" * 16)
        for request in (
            Ping(),
            FindNode(BOB.node_id),
            FindRecord(BOB.node_id),
            Store(signed_descriptor()),
            Leave(7),
            WantProbe(signed_descriptor(), 4500, b"n" * 12),
            SendProbe(signed_descriptor(), HERE, b"n" * 12),
            Meet(BOB.node_id, b"s" * 80),
        )
    ] + [envelopes.challenge(b"i" * 12, b"c" * 16)]


def _dht_bodies() -> list[bytes]:
    contact = Contact.of(BOB.identity_key, HERE).encode()
    bodies = {
        0: [b"c" * 16],
        2: [BOB.node_id],
        3: [BOB.node_id],
        4: [signed_descriptor()],
        5: [7],
        6: [signed_descriptor(), 4500, b"n" * 12],
        7: [signed_descriptor(), HERE.packed, HERE.port, b"n" * 12],
        12: [contact] * 3,
        13: [signed_descriptor()],
        14: [True],
        8: [BOB.node_id, b"s" * 80],
        16: [2],
        17: [True, b"s" * 80],
    }
    return [bytes((kind,)) + pack_canonical(bodies.get(kind, [])) for kind in range(18)]


def _terms() -> LayerTerms:
    return LayerTerms(
        esp_suite=3,
        seed=SecretBytes(bytes(range(32))),
        forward_spi=Spi(1000),
        backward_spi=Spi(1001),
        near=_NEAR,
        expires_min=1,
        lifetime_s=60,
    )


def _layers() -> list[ExitLayer | RelayLayer]:
    far = CircuitAddress(CIRCUIT_PREFIX + b"\1" * 12)
    v6 = HERE._replace(host="2001:db8::1")
    return [
        ExitLayer(_terms(), IpVersions.IPV4),
        ExitLayer(_terms(), IpVersions.IPV4 | IpVersions.IPV6),
        RelayLayer(_terms(), far, LinkPeer(BOB.overlay_address, BOB.link_key, HERE)),
        RelayLayer(_terms(), far, LinkPeer(BOB.overlay_address, BOB.link_key, v6)),
    ]


def _onions() -> list[bytes]:
    last, _, relay, _ = _layers()
    messages = []
    for hops in (
        [OnionHop(ALICE.onion_key, last)],
        [OnionHop(ALICE.onion_key, relay), OnionHop(BOB.onion_key, last)],
    ):
        messages.append(construct_onion(1, hops, Random(4)))
    return messages


def _controls() -> list[bytes]:
    return [
        (bytes((version, kind)) + bytes(range(1, size + 1))).ljust(CONTROL_BYTES, b"\0")
        for version in (1, 2)
        for kind, size in _CONTROL_BODIES.items()
    ]


def _carried() -> list[bytes]:
    short = b"\1" + b"m" * 8 + b"\0\5\0hello"
    long = [
        b"\1" + b"l" * 8 + (2000).to_bytes(2, "big") + bytes((index,)) + bytes(size)
        for index, size in ((0, 1072), (1, 928))
    ]
    return [short, *long, b"\2" + b"m" * 8 + b"\0\1"]


def _packets() -> list[bytes]:
    control = [
        build_datagram(UdpDatagram(_NEAR, ALICE.overlay_address, CONTROL_PORT, CONTROL_PORT, each))
        for each in _controls()[-9:]
    ]
    return control + [_signal(each) for each in _carried()]


def _signal(payload: bytes) -> bytes:
    ports = (SIGNALLING_PORT, SIGNALLING_PORT)
    return build_datagram(UdpDatagram(_PEER, ALICE.overlay_address, *ports, payload))


def _onion_packets() -> list[bytes]:
    heads = [b"\1" + bytes((number,)) * 8 for number in (1, 2)]
    return [
        _signal(head + len(message).to_bytes(2, "big") + b"\0" + message)
        for head, message in zip(heads, _onions(), strict=True)
    ]


def _joined(pieces: list[bytes]) -> bytes:
    return b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _inner() -> list[bytes]:
    tcp = bytes.fromhex(
        "04d200500000000100000000a0022000000000000204 05b4 0402080a0000000100000002 010303 07"
    )
    udp, icmp = b"\x04\xd2\x00\x35\x00\x0c\x00\x00data", b"\x08\x00\xf7\xff\0\0\0\0"
    packets = []
    for number, body in ((6, tcp), (17, udp), (1, icmp), (58, icmp), (50, bytes(24))):
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, number, 0)
        head += bytes((100, 64, 0, 7, 198, 51, 100, 9))
        total = sum(struct.unpack(">10H", head))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        packets.append(head[:10] + checksum.to_bytes(2, "big") + head[12:] + body)
        addresses = bytes.fromhex("fd000000000000000000000000000007")
        addresses += bytes.fromhex("20010db8000000000000000000000009")
        for before, first in (
            (b"", number),
            (bytes((number, 0, 1, 4, 0, 0, 0, 0)), 0),
            (bytes((number, 0, 0, 1, 0, 0, 0, 1)), 44),
        ):
            size = len(before) + len(body)
            packets.append(
                struct.pack(">IHBB", 0x60000000, size, first, 64) + addresses + before + body
            )
    return packets


def _esp() -> list[bytes]:
    plain = []
    for packet in (*_inner(), *_packets()[:3]):
        pad = -(len(packet) + 2) % 4
        number = 4 if packet[0] >> 4 == 4 else 41
        plain.append(packet + bytes(range(1, pad + 1)) + bytes((pad, number)))
    return [*plain, bytes.fromhex("0000070000000001") + bytes(40), b"\xff", bytes(4)]


def _super() -> list[bytes]:
    """Return frames of a device with offload, and packets of several segments."""
    segments = struct.pack(">HHIIBBHHH", 80, 4000, 1, 1, 0x50, 0x10, 64, 0, 0) + bytes(1200)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segments), 0, 0x4000, 64, 6, 0)
    ipv4 = head + bytes((100, 64, 0, 7, 198, 51, 100, 9)) + segments
    ipv6 = struct.pack(">IHBB", 0x60000000, len(segments), 6, 64) + bytes(32) + segments
    frames = [
        struct.pack("=BBHHHH", 1, kind, 40, size, 20, 16) + packet
        for kind, packet in ((0, ipv4), (1, ipv4), (4, ipv6), (5, _inner()[4]))
        for size in (536, 100)
    ]
    return [ipv4, ipv6, *frames]


PATH: Final = {
    "number": 1,
    "destination": "192.0.2.7/32",
    "state": "open",
    "hops": [{"node_id": "00", "overlay_address": "fd6d:6978::7"}],
    "inner_addresses": ["100.64.0.2"],
    "rtt_ms": 1.5,
    "age_s": 2,
    "strategy": "uniform",
    "mtu": 1180,
}
"""A path as a node reports it."""


def _lines() -> list[bytes]:
    opening = {
        "destinations": ["192.0.2.7"],
        "hops": 3,
        "strategy": "uniform",
        "via": ["fd6d:6978::7"],
    }
    values = (
        {"method": "status"},
        {"method": "stop"},
        {"method": "open_paths", "parameters": opening},
        {"method": "open_paths", "parameters": {"destinations": ["2001:db8::/48"]}},
        {"method": "close_path", "parameters": {"path": "all"}},
        {"method": "close_path", "parameters": {"path": 7}},
        {"result": [PATH]},
        {"error": "no.", "kind": "PathError"},
        [PATH],
    )
    return [json.dumps(value).encode() for value in values] + [b"192.0.2.7/24", b"fd6d:6978::7"]


def _valid() -> dict[str, list[bytes]]:
    return {
        "link_message": _link_messages() + _payloads(),
        "link_channel": _link_messages(),
        "dht_envelope": _dht_requests(),
        "dht_message": _dht_bodies(),
        "dht_core": _dht_requests(),
        "descriptor": [signed_descriptor(), _descriptor_body()],
        "exit_policy": [pack_canonical(_policy().encode())],
        "topology_store": [b"\0\x40\0\x10\0", b"\x10\0\xff\0\0", b"\x00\x3c\0\1\1\x00\x10\0\0\0"],
        "onion": _onions(),
        "onion_layer": [layer.encode() for layer in _layers()],
        "circuit_control": _controls(),
        "signalling_packet": _packets(),
        "carrier": [_joined(_carried()), *(_joined([each]) for each in _carried())],
        "signalling": [_joined([each]) for each in _packets() + _onion_packets()],
        "esp_packet": _esp(),
        "inner_packet": _inner(),
        "super_packet": _super(),
        "control_socket": _lines(),
    }


def _near(valid: list[bytes], rng: Random) -> Iterator[bytes]:
    """Yield each input, cut, lengthened, and with a changed byte."""
    for data in valid:
        yield data
        place = rng.randrange(len(data))
        yield data[:place]
        yield data[:place] + bytes((rng.choice((0, 1, 0x7F, 0x80, 0xFF)),)) + data[place + 1 :]
    yield valid[0] + b"\0"
    yield b""


def seeds() -> dict[str, list[bytes]]:
    """Return what the corpus begins with; only what HPKE seals differs from call to call."""
    rng = Random(17)
    return {name: list(dict.fromkeys(_near(valid, rng))) for name, valid in _valid().items()}


def write(name: str, data: bytes) -> None:
    """Put an input of a target into the corpus."""
    directory = CORPUS / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{hashlib.sha256(data).hexdigest()[:16]}.bin").write_bytes(data)


def main() -> None:
    """Write all seeds."""
    for name, inputs in seeds().items():
        for data in inputs:
            TARGETS[name](data)
            write(name, data)


if __name__ == "__main__":
    main()
