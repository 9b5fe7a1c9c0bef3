"""Filled-in forms are what the declarative classes encode, byte for byte."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from overlay.addresses import Endpoint
from overlay.ipsec.interface import (
    Lifetime,
    PolicyDirection,
    Prefix,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.replay import MAX_START
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.entries import (
    KERNEL_MAX_TEMPLATES,
    MAX_REQID,
    MAX_WINDOW,
    blocking_policy,
    new_association,
    new_policy,
    policy_id,
    sa_id,
)
from overlay.ipsec.xfrm.forms import association_body, body_of, policy_bodies, sa_id_body
from overlay.sensitive import SecretBytes

SPIS = st.integers(256, 2**32 - 1).map(Spi)
REQIDS = st.integers(1, MAX_REQID)
PORTS = st.integers(1, 65535)
LIMITS = st.none() | st.integers(1, 2**63)
SECONDS = st.none() | st.floats(0.01, 1e9)


@st.composite
def addresses(draw: st.DrawFn, count: int) -> list[bytes]:
    size = draw(st.sampled_from([4, 16]))
    return [draw(st.binary(min_size=size, max_size=size)) for _ in range(count)]


@st.composite
def associations(draw: st.DrawFn) -> SecurityAssociation:
    source, destination = draw(addresses(2))
    suite = draw(st.sampled_from(sorted(SUITES)))
    size = SUITES[suite].keymat_bytes
    ports = [Endpoint("192.0.2.1", draw(PORTS)) for _ in range(2)]
    return SecurityAssociation(
        spi=draw(SPIS),
        reqid=draw(REQIDS),
        source=source,
        destination=destination,
        suite=suite,
        keymat=SecretBytes(draw(st.binary(min_size=size, max_size=size))),
        inbound=draw(st.booleans()),
        encapsulation=draw(st.sampled_from([None, UdpEncapsulation(*ports)])),
        esn=draw(st.booleans()),
        replay_window=draw(st.sampled_from([32, 1024, MAX_WINDOW])),
        tfc_pad_to=draw(st.sampled_from([0, 1, 1400, 65535])),
        lifetime=Lifetime(
            soft_s=draw(SECONDS),
            hard_s=draw(SECONDS),
            soft_packets=draw(LIMITS),
            hard_packets=draw(LIMITS),
            soft_bytes=draw(LIMITS),
            hard_bytes=draw(LIMITS),
        ),
    )


@st.composite
def policies(draw: st.DrawFn) -> SecurityPolicy:
    ends = draw(addresses(2))
    bits = len(ends[0]) * 8
    lengths = st.sampled_from([0, bits // 2, bits]) | st.integers(0, bits)
    source, destination = (Prefix(end, draw(lengths)) for end in ends)
    count = draw(st.integers(1, KERNEL_MAX_TEMPLATES))
    return SecurityPolicy(
        draw(st.sampled_from(PolicyDirection)),
        Selector(source, destination, draw(st.none() | st.integers(1, 255))),
        tuple(Template(*draw(addresses(2)), draw(REQIDS)) for _ in range(count)),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(associations(), st.integers(0, MAX_START))
def test_an_association_is_as_declared(sa: SecurityAssociation, start: int) -> None:
    assert association_body(sa, start) == body_of(new_association(sa, start))
    assert association_body(sa) == association_body(sa), "a form is not written on"


@settings(deadline=None, max_examples=50)
@given(SPIS, addresses(1))
def test_the_identity_of_an_association_is_as_declared(spi: Spi, packed: list[bytes]) -> None:
    identity = SaIdentity(spi, packed[0])
    assert sa_id_body(identity) == body_of(sa_id(identity))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(policies(), st.booleans(), st.none() | st.integers(1, 2**31))
def test_a_policy_and_its_identity_are_as_declared(
    policy: SecurityPolicy, blocks: bool, mark: int | None
) -> None:
    if blocks:
        declared, identity = blocking_policy(policy), policy_id(policy)
    else:
        declared, identity = new_policy(policy, mark), policy_id(policy, mark)
    bodies = policy_bodies(policy, blocks=blocks, mark=mark)
    assert bodies == (body_of(declared), body_of(identity))
