"""The recipe of the data path, policy by policy, for a circuit of three hops."""

from __future__ import annotations

import ipaddress

import pytest

from overlay.addresses import CircuitAddress, Endpoint, InnerAddress, OverlayAddress
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo, SourceIpsecInfo
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.translator import (
    translate_closing,
    translate_exit,
    translate_inner,
    translate_relay,
    translate_source,
)
from overlay.ipsec.interface import IpsecConfiguration, PolicyDirection, Spi
from overlay.link.events import LinkKeys
from overlay.link.security import LinkSecurity, link_configuration
from overlay.sensitive import SecretBytes


def circuit(i: int) -> CircuitAddress:
    return CircuitAddress(bytes.fromhex("fd636972") + bytes(11) + bytes([i]))


def overlay(i: int) -> OverlayAddress:
    return OverlayAddress(bytes.fromhex("fd6d6978") + bytes(11) + bytes([i]))


VC = InnerAddresses(
    InnerAddress(bytes((100, 64, 0, 9))), InnerAddress(bytes.fromhex("fd77") + bytes(14))
)
LINK = LinkSecurity(7, b"\x0a\0\0\1", b"\x0a\0\0\2")
NEXT = LinkSecurity(8, b"\x0a\0\0\2", b"\x0a\0\0\3")


def sas(i: int) -> OnionSas:
    return OnionSas(
        hop=overlay(i),
        near=circuit(i - 1),
        esp_suite=3,
        forward_spi=Spi(1000 + i),
        backward_spi=Spi(2000 + i),
        forward_keymat=SecretBytes(b"f" * 36),
        backward_keymat=SecretBytes(b"b" * 36),
        forward_reqid=10 * i,
        backward_reqid=10 * i + 1,
        chain=SecretBytes(bytes(32)),
    )


NAMES = {
    **{bytes(circuit(i)): f"C{i}" for i in range(4)},
    **{bytes(overlay(i)): f"V{i}" for i in range(5)},
    VC.ipv4: "VC4",
    VC.ipv6: "VC6",
    bytes(4): "any4",
    bytes(16): "any6",
    bytes((93, 184, 216, 0)): "D",
    LINK.local: "S",
    LINK.remote: "N1",
    NEXT.remote: "N2",
}


def told(configuration: IpsecConfiguration) -> list[str]:
    """Policies in words: direction, selector, and the outer addresses of each template."""
    lines = []
    for policy in configuration.policies:
        selector = policy.selector
        protocol = {None: "", 50: " esp", 17: " udp"}[selector.protocol]
        chain = ", ".join(f"{NAMES[t.source]}->{NAMES[t.destination]}" for t in policy.templates)
        source, destination = NAMES[selector.source.network], NAMES[selector.destination.network]
        lines.append(f"{policy.direction.value} {source}->{destination}{protocol}: {chain}")
    return lines


def test_source_has_control_policies_towards_each_hop() -> None:
    configuration = translate_source(SourceIpsecInfo((sas(1), sas(2), sas(3)), LINK))
    assert told(configuration) == [
        "out C0->V1 udp: C0->V1, S->N1",
        "in V1->C0 esp: N1->S",
        "in V1->C0 udp: V1->C0, N1->S",
        "out C1->V2 udp: C1->V2, C0->V1, S->N1",
        "in V2->C1 esp: V1->C0, N1->S",
        "in V2->C1 udp: V2->C1, V1->C0, N1->S",
        "out C2->V3 udp: C2->V3, C1->V2, C0->V1, S->N1",
        "in V3->C2 esp: V2->C1, V1->C0, N1->S",
        "in V3->C2 udp: V3->C2, V2->C1, V1->C0, N1->S",
    ]
    assert configuration.local_addresses == (circuit(0), circuit(1), circuit(2))
    assert [
        (sa.spi, NAMES[sa.source], NAMES[sa.destination], sa.inbound)
        for sa in configuration.associations
    ] == [
        (1001, "C0", "V1", False),
        (2001, "V1", "C0", True),
        (1002, "C1", "V2", False),
        (2002, "V2", "C1", True),
        (1003, "C2", "V3", False),
        (2003, "V3", "C2", True),
    ]


def test_confirmation_adds_the_datas_policies_alone() -> None:
    info = SourceIpsecInfo((sas(1), sas(2), sas(3)), LINK)
    configuration = translate_inner(info, VC, ipaddress.ip_network("93.184.216.0/24"))
    assert told(configuration) == [
        "out VC4->D: C2->V3, C1->V2, C0->V1, S->N1",
        "in any4->VC4: V3->C2, V2->C1, V1->C0, N1->S",
    ]
    assert configuration.policies[0].selector.destination.length == 24
    assert configuration.local_addresses == (VC.ipv4,)
    assert configuration.associations == ()


def test_inner_policies_need_an_address_of_the_destinations_family() -> None:
    info = SourceIpsecInfo((sas(1),), LINK)
    with pytest.raises(ValueError, match="IP version"):
        translate_inner(info, InnerAddresses(VC.ipv4), ipaddress.ip_network("2001:db8::/32"))


def test_relay_follows_the_recipe() -> None:
    previous = LinkSecurity(7, LINK.remote, LINK.local)
    info = RelayIpsecInfo(sas(1), previous, circuit(1), overlay(2), NEXT)
    configuration = translate_relay(info)
    assert told(configuration) == [
        "in C0->V1 esp: S->N1",
        "in C0->V1 udp: C0->V1, S->N1",
        "out V1->C0 udp: V1->C0, N1->S",
        "fwd C1->V2: C0->V1, S->N1",
        "out C1->V2: N1->N2",
        "fwd any6->C1: N2->N1",
        "out any6->C1: V1->C0, N1->S",
    ]
    assert [(sa.spi, sa.inbound) for sa in configuration.associations] == [
        (1001, True),
        (2001, False),
    ]
    assert configuration.local_addresses == ()


def test_exit_forwards_from_its_inner_addresses_alone() -> None:
    previous = LinkSecurity(7, LINK.remote, LINK.local)
    assert told(translate_exit(ExitIpsecInfo(sas(1), previous, VC))) == [
        "in C0->V1 esp: S->N1",
        "in C0->V1 udp: C0->V1, S->N1",
        "out V1->C0 udp: V1->C0, N1->S",
        "fwd VC4->any4: C0->V1, S->N1",
        "out any4->VC4: V1->C0, N1->S",
        "fwd VC6->any6: C0->V1, S->N1",
        "out any6->VC6: V1->C0, N1->S",
    ]


def test_refusal_needs_the_backward_sa_alone() -> None:
    previous = LinkSecurity(7, LINK.remote, LINK.local)
    configuration = translate_closing(sas(1), previous)
    assert told(configuration) == ["out V1->C0 udp: V1->C0, N1->S"]
    assert [(sa.spi, sa.inbound) for sa in configuration.associations] == [(2001, False)]


def test_both_ends_of_a_link_name_the_same_sas() -> None:
    a, b = Endpoint("10.0.0.1", 4500), Endpoint("10.0.0.2", 4501)
    one, two = SecretBytes(b"1" * 36), SecretBytes(b"2" * 36)
    left = link_configuration(
        overlay(1),
        overlay(2),
        local=a,
        remote=b,
        keys=LinkKeys(3, Spi(500), one, Spi(600), two),
        reqid=7,
        tfc_pad_to=1280,
    )
    right = link_configuration(
        overlay(2),
        overlay(1),
        local=b,
        remote=a,
        keys=LinkKeys(3, Spi(600), two, Spi(500), one),
        reqid=9,
    )
    [left_in, left_out], [right_in, right_out] = left.associations, right.associations
    assert (left_in.identity, left_in.keymat) == (right_out.identity, right_out.keymat)
    assert (left_out.identity, left_out.keymat) == (right_in.identity, right_in.keymat)
    assert left_out.encapsulation == right_in.encapsulation
    assert left_in.encapsulation == right_out.encapsulation
    assert (left_out.tfc_pad_to, left_in.tfc_pad_to) == (1280, 0)
    assert (left.local_addresses, right.local_addresses) == ((overlay(1),), (overlay(2),))
    assert told(left) == ["in V2->V1: N1->S", "out V1->V2: S->N1"]
    assert [policy.direction for policy in left.policies] == [
        PolicyDirection.IN,
        PolicyDirection.OUT,
    ]
