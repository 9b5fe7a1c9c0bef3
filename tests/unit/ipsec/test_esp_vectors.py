import hashlib
import hmac
import json
from pathlib import Path
from random import Random

import pytest
from ipsec_circuits import NOW

from overlay.addresses import Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4
from overlay.ipsec.interface import SecurityAssociation, Spi, UdpEncapsulation
from overlay.ipsec.suites import SUITES
from overlay.ipsec.transforms import new_transform
from overlay.sensitive import SecretBytes

VECTORS = Path(__file__).parents[2] / "vectors"
AUTH_KEY = bytes(range(32))
ENDPOINT = Endpoint("192.0.2.1", 4500)


class Fixed(Random):
    """A generator that gives out one prepared value."""

    def __init__(self, value: bytes) -> None:
        super().__init__(0)
        self.value = value

    def getrandbits(self, k: int) -> int:
        assert k == len(self.value) * 8
        return int.from_bytes(self.value, "big")

    def randbytes(self, n: int) -> bytes:
        assert n == len(self.value)
        return self.value


def cases(name: str) -> list[dict[str, str]]:
    return json.loads((VECTORS / name).read_text())["cases"]


def link(spi: int, suite: int, keymat: bytes, *, inbound: bool) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=1,
        source=bytes(4),
        destination=bytes(4),
        suite=suite,
        keymat=SecretBytes(keymat),
        inbound=inbound,
        encapsulation=UdpEncapsulation(ENDPOINT, ENDPOINT),
        esn=False,
    )


def test_rfc_7634_packet_opens_to_its_inner_packet():
    (case,) = cases("rfc7634-appendix-a.json")
    keymat = bytes.fromhex(case["key"] + case["salt"])
    sa = InboundSa(link(0x01020304, 4, keymat, inbound=True), Random(0), lambda _: None)
    opened = sa.open(bytes.fromhex(case["packet"]), 0, NOW)
    assert opened == bytes.fromhex(case["plaintext"])[:84]


def test_rfc_7634_packet_is_sealed_byte_for_byte():
    (case,) = cases("rfc7634-appendix-a.json")
    keymat = bytes.fromhex(case["key"] + case["salt"])
    mask = int(case["iv"], 16) ^ 5
    rng = Fixed(mask.to_bytes(8, "big"))
    sa = OutboundSa(link(0x01020304, 4, keymat, inbound=False), rng, lambda _: None, start=4)
    sealed = sa.seal(bytes.fromhex(case["plaintext"])[:84], IPV4, NOW)
    assert sealed == bytes.fromhex(case["packet"])


@pytest.mark.parametrize("index", [0, 1])
def test_rfc_3602_packets_decrypt_and_encrypt_as_printed(index):
    case = cases("rfc3602-esp-packets.json")[index]
    esp, inner = bytes.fromhex(case["esp"]), bytes.fromhex(case["inner"])
    pad = case["pad_len"]
    plaintext = inner + bytes(range(1, pad + 1)) + bytes((pad, case["next_header"]))
    keymat = bytes.fromhex(case["key"]) + AUTH_KEY
    spi, sequence = int.from_bytes(esp[:4], "big"), int.from_bytes(esp[4:8], "big")
    packet = esp + hmac.new(AUTH_KEY, esp, hashlib.sha256).digest()[:16]
    transform = new_transform(SUITES[5], keymat, spi, Fixed(esp[8:24]), esn=False)
    assert transform.open(packet, 0, sequence) == plaintext
    assert transform.seal(sequence, plaintext) == packet


def test_rfc_3602_tunnel_mode_packet_opens_to_its_inner_packet():
    case = cases("rfc3602-esp-packets.json")[1]
    esp = bytes.fromhex(case["esp"])
    packet = esp + hmac.new(AUTH_KEY, esp, hashlib.sha256).digest()[:16]
    value = link(0x8765, 5, bytes.fromhex(case["key"]) + AUTH_KEY, inbound=True)
    assert InboundSa(value, Random(0), lambda _: None).open(packet, 0, NOW) == bytes.fromhex(
        case["inner"]
    )
