"""Another ESP implementation as judge: it opens what we seal, we open what it seals."""

import warnings
from random import Random

import pytest
from ipsec_circuits import NOW, SaEnds, advance, ipv4, ipv6, sa_ends

from overlay.addresses import Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4, IPV6
from overlay.ipsec.suites import SUITES, Suite

with warnings.catch_warnings():
    # scapy names ciphers that cryptography is about to drop.
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import ESP, SecurityAssociation

V4 = (bytes((198, 51, 100, 1)), bytes((198, 51, 100, 2)))
V6 = (bytes.fromhex("fd6d6978" + "00" * 11 + "01"), bytes.fromhex("fd6d6978" + "00" * 11 + "02"))
INNER = {
    "inner4": ipv4(
        bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), b"\x10\x00\x20\x00\x00\x15\x00\x00hello, ipsec!"
    ),
    "inner6": ipv6(V6[0], V6[1], b"\x10\x00\x20\x00\x00\x15\x12\x34hello, ipsec!"),
}
HIGH = 3
SPI = 0x1234567


def outer(kind: str):
    if kind == "v6":
        return IPv6(src="fd6d:6978::1", dst="fd6d:6978::2")
    return IP(src="198.51.100.1", dst="198.51.100.2")


def ends(suite: Suite, kind: str, *, esn: bool) -> SaEnds:
    addresses = V6 if kind == "v6" else V4
    udp = (Endpoint("198.51.100.1", 4500), Endpoint("198.51.100.2", 4500))
    return sa_ends(
        SPI, (1, 1), *addresses, suite=suite.number, esn=esn, udp=udp if kind == "nat-t" else None
    )


def judge(suite: Suite, kind: str, *, esn: bool):
    keymat = ends(suite, kind, esn=esn).inbound.keymat.reveal()
    extra = {}
    if suite.salt_bytes:
        cipher = "CHACHA20-POLY1305" if suite.number == 4 else "AES-GCM"
        key = keymat
    else:
        cipher = "3DES" if suite.experiment else "AES-CBC"
        key = keymat[: suite.key_bytes]
        extra["auth_algo"] = "SHA2-256-128" if suite.digest == "sha256" else "HMAC-SHA1-96"
        extra["auth_key"] = keymat[suite.key_bytes :]
    if kind == "nat-t":
        extra["nat_t_header"] = UDP(sport=4500, dport=4500)
    return SecurityAssociation(
        ESP,
        spi=SPI,
        seq_num=7,
        crypt_algo=cipher,
        crypt_key=key,
        tunnel_header=outer(kind),
        esn_en=esn,
        esn=HIGH if esn else 0,
        **extra,
    )


every_case = pytest.mark.parametrize(
    ("suite", "kind", "esn", "inner"),
    [
        pytest.param(
            suite, kind, esn, inner, id=f"{suite.name}-{kind}-{'esn' if esn else 'seq'}-{inner}"
        )
        for suite in SUITES.values()
        for kind in ("v4", "v6", "nat-t")
        for esn in (False, True)
        for inner in ("inner4" if (suite.number + esn) % 2 else "inner6",)
    ],
)


@every_case
def test_scapy_opens_what_we_seal(suite, kind, esn, inner):
    start = (HIGH << 32 if esn else 0) + 41
    sa = OutboundSa(ends(suite, kind, esn=esn).outbound, Random(1), lambda _: None, start=start)
    sealed = sa.seal(INNER[inner], IPV4 if inner == "inner4" else IPV6, NOW)
    if kind == "nat-t":
        packet = outer(kind) / UDP(sport=4500, dport=4500) / ESP(sealed)
        packet = IP(bytes(packet))
    else:
        packet = (IPv6 if kind == "v6" else IP)(sealed)
    assert packet[ESP].seq == 42
    opened = judge(suite, kind, esn=esn).decrypt(packet)
    assert bytes(opened) == INNER[inner]


def reach(sa: InboundSa, suite: Suite, kind: str, *, esn: bool) -> None:
    """Move the window to the high half that the judge uses."""
    if esn:
        advance(sa, ends(suite, kind, esn=True).outbound, HIGH << 32)


@every_case
def test_we_open_what_scapy_seals(suite, kind, esn, inner):
    sa = InboundSa(ends(suite, kind, esn=esn).inbound, Random(1), lambda _: None)
    # The window stands where the peer's counter is, as after a few packets.
    reach(sa, suite, kind, esn=esn)
    sealed = judge(suite, kind, esn=esn).encrypt((IP if inner == "inner4" else IPv6)(INNER[inner]))
    datagram = bytes(sealed[ESP])
    assert sa.open(datagram, 0, NOW) == INNER[inner]
    offset = 40 if kind == "v6" else 20
    if kind != "nat-t":
        again = InboundSa(sa.value, Random(1), lambda _: None)
        reach(again, suite, kind, esn=esn)
        assert again.open(bytes(sealed), offset, NOW) == INNER[inner]


@pytest.mark.parametrize("kind", ["v4", "v6"])
def test_our_outer_header_is_what_scapy_would_build(kind):
    sa = OutboundSa(ends(SUITES[3], kind, esn=True).outbound, Random(1), lambda _: None)
    sealed = sa.seal(INNER["inner6"], IPV6, NOW)
    ours = (IPv6 if kind == "v6" else IP)(sealed)
    rebuilt = ours.copy()
    if kind == "v6":
        del rebuilt.plen
        assert (ours.tc, ours.fl, ours.hlim) == (0, 0, 64)
    else:
        del rebuilt.len
        del rebuilt.chksum
        assert (ours.tos, int(ours.flags), ours.frag, ours.ttl) == (0, 0, 0, 64)
    assert bytes(rebuilt) == sealed
