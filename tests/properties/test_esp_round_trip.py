import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4, IPV6
from overlay.ipsec.interface import SecurityAssociation, Spi, UdpEncapsulation
from overlay.ipsec.suites import SUITES
from overlay.sensitive import SecretBytes

ENDPOINT = Endpoint("192.0.2.1", 4500)
PAYLOADS = st.binary(max_size=300) | st.integers(0, 9000).map(bytes)


def association(
    suite: int, *, inbound: bool, link: bool, tfc: int, esn: bool
) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(0x900),
        reqid=1,
        source=bytes(15) + b"\x01",
        destination=bytes(15) + b"\x02",
        suite=suite,
        keymat=SecretBytes(bytes(SUITES[suite].keymat_bytes)),
        inbound=inbound,
        encapsulation=UdpEncapsulation(ENDPOINT, ENDPOINT) if link else None,
        esn=esn,
        tfc_pad_to=tfc,
    )


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=30)
@given(st.lists(PAYLOADS, max_size=3), st.booleans(), st.booleans(), st.integers(0, 2000))
def test_any_payload_comes_back(suite, payloads, link, esn, tfc):
    sealing = OutboundSa(
        association(suite, inbound=False, link=link, tfc=tfc, esn=esn), Random(1), lambda _: None
    )
    opening = InboundSa(
        association(suite, inbound=True, link=link, tfc=tfc, esn=esn), Random(1), lambda _: None
    )
    for payload in payloads:
        v4 = struct.pack(">BBHHHBBH8s", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0, bytes(8))
        v6 = struct.pack(">IHBB32s", 0x60000000, len(payload), 17, 64, bytes(32))
        for packet, next_header in ((v4 + payload, IPV4), (v6 + payload, IPV6)):
            sealed = sealing.seal(packet, next_header, 0.0)
            assert isinstance(sealed, bytes)
            assert opening.open(sealed, 0 if link else 40, 0.0) == packet
            assert len(sealed) >= max(len(packet), tfc)
