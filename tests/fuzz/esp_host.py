"""A host whose link and circuit end here, for everything that fuzzes ESP."""

from random import Random

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, Endpoint
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    IpsecConfiguration,
    PolicyDirection,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.sensitive import SecretBytes

PEER = Endpoint("192.0.2.1", 4500)
OWN = OVERLAY_PREFIX + bytes(11) + b"\1"
CIRCUIT = CIRCUIT_PREFIX + bytes(12)


def association(spi: int, suite: int, *, inbound: bool, link: bool) -> SecurityAssociation:
    """Return an SA whose key is zero: of the link to the peer, or of a circuit to this host."""
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=spi,
        source=PEER.packed if link else CIRCUIT,
        destination=PEER.packed if link else OWN,
        suite=suite,
        keymat=SecretBytes(bytes(SUITES[suite].keymat_bytes)),
        inbound=inbound,
        encapsulation=UdpEncapsulation(PEER, PEER) if link else None,
    )


def esp_host() -> UserspaceEngine:
    """Return the engine of a host that lets all pass that came through its link."""
    link_in = association(0x700, 3, inbound=True, link=True)
    link_out = association(0x701, 3, inbound=False, link=True)
    onion_in = association(0x800, 3, inbound=True, link=False)
    made = UserspaceEngine(rng=Random(1))
    through = (Template(link_in.source, link_in.destination, link_in.reqid),)
    onward = (Template(link_out.source, link_out.destination, link_out.reqid),)
    policies = [
        SecurityPolicy(direction, Selector(prefix, prefix), chain)
        for prefix in (ANY_V4, ANY_V6)
        for direction, chain in (
            (PolicyDirection.IN, through),
            (PolicyDirection.FWD, through),
            (PolicyDirection.OUT, onward),
        )
    ]
    made.install(IpsecConfiguration((link_in, link_out, onion_in), tuple(policies), (OWN,)))
    return made
