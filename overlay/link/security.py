"""From links to IPsec: the SAs and policies of a link, and the templates that name it.

::

    IN   Vpeer -> Vself     link     signalling
    OUT  Vself -> Vpeer     link

Policies of circuits name a link by its reqid and addresses (docs/decisions/0004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.addresses import Endpoint, OverlayAddress
from overlay.ipsec.interface import (
    UNLIMITED,
    IpsecConfiguration,
    Lifetime,
    PolicyDirection,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
    UdpEncapsulation,
)
from overlay.link.events import LinkKeys

__all__ = [
    "FIRST_CIRCUIT_REQID",
    "LinkSecurity",
    "inbound_template",
    "link_associations",
    "link_configuration",
    "link_policies",
    "outbound_template",
]

FIRST_CIRCUIT_REQID: Final = 1 << 16
"""Reqids of links are below this number. Those of onion SAs begin with it."""


@dataclass(frozen=True, slots=True)
class LinkSecurity:
    """The values by which IPsec policies refer to a link: its reqid and both underlay addresses.

    Both directions have the same reqid. The addresses in a template distinguish them.
    """

    reqid: int
    local: bytes
    remote: bytes


def inbound_template(link: LinkSecurity) -> Template:
    """Return the template of packets that come over a link."""
    return Template(link.remote, link.local, link.reqid)


def outbound_template(link: LinkSecurity) -> Template:
    """Return the template of packets that leave over a link."""
    return Template(link.local, link.remote, link.reqid)


def link_configuration(
    local_overlay: OverlayAddress,
    peer_overlay: OverlayAddress,
    *,
    local: Endpoint,
    remote: Endpoint,
    keys: LinkKeys,
    reqid: int,
    tfc_pad_to: int = 0,
) -> IpsecConfiguration:
    """Return the first pair of SAs of a link, its policies, and this node's overlay address.

    ``local`` and ``remote`` are the UDP endpoints of the encapsulation (RFC 3948). The link pads
    ESP payloads to ``tfc_pad_to`` bytes (RFC 4303, section 2.7).
    """
    security = LinkSecurity(reqid, local.packed, remote.packed)
    return IpsecConfiguration(
        associations=link_associations(
            local=local, remote=remote, keys=keys, reqid=reqid, tfc_pad_to=tfc_pad_to
        ),
        policies=link_policies(local_overlay, peer_overlay, security),
        local_addresses=(local_overlay,),
    )


def link_associations(
    *,
    local: Endpoint,
    remote: Endpoint,
    keys: LinkKeys,
    reqid: int,
    tfc_pad_to: int = 0,
    lifetime: Lifetime = UNLIMITED,
    endpoint: Endpoint | None = None,
) -> tuple[SecurityAssociation, SecurityAssociation]:
    """Return the inbound and the outbound SA of a pair. Rekeying installs nothing else.

    ``endpoint`` is the present endpoint of the peer, if it has moved away from ``remote``.
    """
    inbound = SecurityAssociation(
        spi=keys.inbound_spi,
        reqid=reqid,
        source=remote.packed,
        destination=local.packed,
        suite=keys.suite,
        keymat=keys.inbound_keymat,
        inbound=True,
        encapsulation=UdpEncapsulation(source=endpoint or remote, destination=local),
        lifetime=lifetime,
    )
    outbound = SecurityAssociation(
        spi=keys.outbound_spi,
        reqid=reqid,
        source=local.packed,
        destination=remote.packed,
        suite=keys.suite,
        keymat=keys.outbound_keymat,
        inbound=False,
        encapsulation=UdpEncapsulation(source=local, destination=endpoint or remote),
        tfc_pad_to=tfc_pad_to,
        lifetime=lifetime,
    )
    return inbound, outbound


def link_policies(
    local_overlay: OverlayAddress, peer_overlay: OverlayAddress, link: LinkSecurity
) -> tuple[SecurityPolicy, SecurityPolicy]:
    """Return the policies for signalling between two neighbours."""
    own, peer = Prefix.host(local_overlay), Prefix.host(peer_overlay)
    return (
        SecurityPolicy(PolicyDirection.IN, Selector(peer, own), (inbound_template(link),)),
        SecurityPolicy(PolicyDirection.OUT, Selector(own, peer), (outbound_template(link),)),
    )
