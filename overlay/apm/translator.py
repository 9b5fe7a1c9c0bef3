"""From circuits to IPsec: the paper's ``nitcm_ipsec_translator()``.

The functions are pure, and each backend takes their output. Templates begin with the innermost
one. Hop i of n has overlay address V(i). C(0) to C(n-1) are the circuit addresses, VC is the inner
address, and D the destination::

    source  OUT  VC -> D            f(n) .. f(1), link         data
            OUT  C(i-1) -> V(i)     f(i) .. f(1), link         circuit control (UDP)
            IN   V(i) -> C(i-1)     link, below b(i-1)         ESP: b(i) is still to open
            IN   V(i) -> C(i-1)     b(i) .. b(1), link         circuit control (UDP)
            IN   any -> VC          b(n) .. b(1), link         data
    hop i   IN   C(i-1) -> V(i)     previous link              ESP: f(i) is still to open
            IN   C(i-1) -> V(i)     f(i), previous link        circuit control (UDP)
            OUT  V(i) -> C(i-1)     b(i), previous link        circuit control (UDP)
    relay   FWD  C(i) -> V(i+1)     f(i), previous link
            OUT  C(i) -> V(i+1)     next link
            FWD  any -> C(i)        next link
            OUT  any -> C(i)        b(i), previous link
    exit    FWD  VC -> any          f(n), previous link
            OUT  any -> VC          b(n), previous link

Every inbound policy binds a source address to the SA through which its packets must come. So the
source of a packet that arrives is authentic. Policies of links: :mod:`overlay.link.security`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from overlay.addresses import IpNetwork
from overlay.apm.circuits import (
    ExitIpsecInfo,
    OnionSas,
    RelayIpsecInfo,
    SourceIpsecInfo,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
)
from overlay.link.security import LinkSecurity, inbound_template, outbound_template

__all__ = [
    "hop_associations",
    "ipsec_translator",
    "source_associations",
    "translate_closing",
    "translate_exit",
    "translate_inner",
    "translate_lent",
    "translate_relay",
    "translate_source",
]

_ESP: Final = 50
_UDP: Final = 17


def ipsec_translator(
    info: SourceIpsecInfo | RelayIpsecInfo | ExitIpsecInfo,
) -> IpsecConfiguration:
    """Return the SAs and policies of a circuit on this host, for any role of the host."""
    match info:
        case SourceIpsecInfo():
            return translate_source(info)
        case RelayIpsecInfo():
            return translate_relay(info)
        case ExitIpsecInfo():
            return translate_exit(info)


def translate_source(info: SourceIpsecInfo) -> IpsecConfiguration:
    """Return SAs and control policies of the source, which it needs before it sends the onion."""
    associations = [sa for sas in info.hops for sa in source_associations(sas)]
    policies: list[SecurityPolicy] = []
    for count in range(1, len(info.hops) + 1):
        policies.extend(_source_policies(info.hops[:count], info.link))
    return IpsecConfiguration(
        associations=tuple(associations),
        policies=tuple(policies),
        local_addresses=tuple(sas.near for sas in info.hops),
    )


def translate_inner(
    info: SourceIpsecInfo, inner_addresses: InnerAddresses, destination: IpNetwork
) -> IpsecConfiguration:
    """Return what the confirmation adds at the source: policies for data, and the inner address.

    Raises:
        ValueError: there is no inner address of the destination's IP version.
    """
    inner = inner_addresses.of_version(destination.version)
    if inner is None:
        raise ValueError("the circuit has no inner address of the destination's IP version")
    own = Prefix.host(inner)
    target = Prefix(destination.network_address.packed, destination.prefixlen)
    return IpsecConfiguration(
        associations=(),
        policies=(
            _policy(PolicyDirection.OUT, own, target, None, _forward(info.hops, info.link)),
            _policy(
                PolicyDirection.IN, _any_like(inner), own, None, _backward(info.hops, info.link)
            ),
        ),
        local_addresses=(inner,),
    )


def translate_relay(info: RelayIpsecInfo) -> IpsecConfiguration:
    """Return the SAs and policies of a circuit at a relay."""
    far, next_hop = Prefix.host(info.far), Prefix.host(info.next_hop)
    from_source = (_forward_template(info.sas), inbound_template(info.previous))
    to_source = (_backward_template(info.sas), outbound_template(info.previous))
    return IpsecConfiguration(
        associations=hop_associations(info.sas),
        policies=(
            *_hop_policies(info.sas, info.previous),
            _policy(PolicyDirection.FWD, far, next_hop, None, from_source),
            _policy(PolicyDirection.OUT, far, next_hop, None, (outbound_template(info.next_link),)),
            _policy(PolicyDirection.FWD, ANY_V6, far, None, (inbound_template(info.next_link),)),
            _policy(PolicyDirection.OUT, ANY_V6, far, None, to_source),
        ),
    )


def translate_exit(info: ExitIpsecInfo) -> IpsecConfiguration:
    """Return the SAs and policies of a circuit at its exit."""
    policies = _hop_policies(info.sas, info.previous) + translate_lent(info).policies
    return IpsecConfiguration(hop_associations(info.sas), policies)


def translate_lent(info: ExitIpsecInfo) -> IpsecConfiguration:
    """Return the policies of an exit that name the inner addresses; MOVE replaces them."""
    from_source = (_forward_template(info.sas), inbound_template(info.previous))
    to_source = (_backward_template(info.sas), outbound_template(info.previous))
    policies: list[SecurityPolicy] = []
    for inner in info.inner_addresses:
        anywhere, own = _any_like(inner), Prefix.host(inner)
        policies.append(_policy(PolicyDirection.FWD, own, anywhere, None, from_source))
        policies.append(_policy(PolicyDirection.OUT, anywhere, own, None, to_source))
    return IpsecConfiguration((), tuple(policies))


def translate_closing(sas: OnionSas, previous: LinkSecurity) -> IpsecConfiguration:
    """Return what a hop needs to send a REFUSE: its backward SA and the policy for it."""
    return IpsecConfiguration(
        associations=(_backward_association(sas, inbound=False),),
        policies=(_control_to_source(sas, previous),),
    )


def _policy(
    direction: PolicyDirection,
    source: Prefix,
    destination: Prefix,
    protocol: int | None,
    templates: Iterable[Template],
) -> SecurityPolicy:
    return SecurityPolicy(direction, Selector(source, destination, protocol), tuple(templates))


def _any_like(packed: bytes) -> Prefix:
    return ANY_V4 if len(packed) == 4 else ANY_V6


def _forward_template(sas: OnionSas) -> Template:
    return Template(sas.near, sas.hop, sas.forward_reqid)


def _backward_template(sas: OnionSas) -> Template:
    return Template(sas.hop, sas.near, sas.backward_reqid)


def _forward(hops: tuple[OnionSas, ...], link: LinkSecurity) -> tuple[Template, ...]:
    return (*(_forward_template(sas) for sas in reversed(hops)), outbound_template(link))


def _backward(hops: tuple[OnionSas, ...], link: LinkSecurity) -> tuple[Template, ...]:
    return (*(_backward_template(sas) for sas in reversed(hops)), inbound_template(link))


def _forward_association(sas: OnionSas, *, inbound: bool) -> SecurityAssociation:
    return SecurityAssociation(
        spi=sas.forward_spi,
        reqid=sas.forward_reqid,
        source=sas.near,
        destination=sas.hop,
        suite=sas.esp_suite,
        keymat=sas.forward_keymat,
        inbound=inbound,
        lifetime=sas.lifetime,
    )


def _backward_association(sas: OnionSas, *, inbound: bool) -> SecurityAssociation:
    return SecurityAssociation(
        spi=sas.backward_spi,
        reqid=sas.backward_reqid,
        source=sas.hop,
        destination=sas.near,
        suite=sas.esp_suite,
        keymat=sas.backward_keymat,
        inbound=inbound,
        lifetime=sas.lifetime,
    )


def source_associations(sas: OnionSas) -> tuple[SecurityAssociation, SecurityAssociation]:
    """Return the outbound (forward) and the inbound (backward) SA towards one hop."""
    return _forward_association(sas, inbound=False), _backward_association(sas, inbound=True)


def _source_policies(hops: tuple[OnionSas, ...], link: LinkSecurity) -> Iterator[SecurityPolicy]:
    """Yield the three policies that concern the last of ``hops``."""
    near, hop = Prefix.host(hops[-1].near), Prefix.host(hops[-1].hop)
    yield _policy(PolicyDirection.OUT, near, hop, _UDP, _forward(hops, link))
    yield _policy(PolicyDirection.IN, hop, near, _ESP, _backward(hops[:-1], link))
    yield _policy(PolicyDirection.IN, hop, near, _UDP, _backward(hops, link))


def hop_associations(sas: OnionSas) -> tuple[SecurityAssociation, SecurityAssociation]:
    """Return a hop's inbound (forward) and outbound (backward) SA."""
    return _forward_association(sas, inbound=True), _backward_association(sas, inbound=False)


def _hop_policies(sas: OnionSas, previous: LinkSecurity) -> tuple[SecurityPolicy, ...]:
    near, hop = Prefix.host(sas.near), Prefix.host(sas.hop)
    link = inbound_template(previous)
    return (
        _policy(PolicyDirection.IN, near, hop, _ESP, (link,)),
        _policy(PolicyDirection.IN, near, hop, _UDP, (_forward_template(sas), link)),
        _control_to_source(sas, previous),
    )


def _control_to_source(sas: OnionSas, previous: LinkSecurity) -> SecurityPolicy:
    return _policy(
        PolicyDirection.OUT,
        Prefix.host(sas.hop),
        Prefix.host(sas.near),
        _UDP,
        (_backward_template(sas), outbound_template(previous)),
    )
