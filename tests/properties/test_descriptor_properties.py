from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.dht.descriptor import (
    MAX_VALIDITY_S,
    OnionKey,
    Role,
    UnverifiedDescriptor,
    sign_descriptor,
)
from overlay.exit_policy import ExitPolicy, ExitRule, format_exit_rules, parse_exit_rule
from overlay.identity import LocalIdentity

ALICE = LocalIdentity.generate(Random(1))


@st.composite
def networks(draw):
    if draw(st.booleans()):
        length = draw(st.integers(0, 32))
        return IPv4Network((draw(st.integers(0, 2**32 - 1)) >> 32 - length << 32 - length, length))
    length = draw(st.integers(0, 128))
    return IPv6Network((draw(st.integers(0, 2**128 - 1)) >> 128 - length << 128 - length, length))


@st.composite
def rules(draw):
    first, last = sorted(draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535))))
    if draw(st.booleans()):
        first, last = 0, 65535
    return ExitRule(draw(st.booleans()), draw(networks()), first, last)


policies = st.builds(
    ExitPolicy,
    st.lists(rules(), max_size=12).map(tuple),
    st.lists(networks(), max_size=4).map(tuple),
)
endpoints = st.builds(
    Endpoint,
    st.ip_addresses(v=4, network="198.51.100.0/24").map(str)
    | st.ip_addresses(v=6, network="2001:db8::/32").map(str),
    st.integers(1, 65535),
)


@pytest.mark.slow
@given(policies)
@settings(deadline=None)
def test_exit_policy_survives_its_encoding(policy):
    assert ExitPolicy.decode(policy.encode()) == policy


@pytest.mark.slow
@given(st.lists(rules(), max_size=6))
@settings(deadline=None)
def test_exit_rules_survive_as_text(given_rules):
    lines = format_exit_rules(given_rules)
    read = [rule for line in lines for rule in parse_exit_rule(line)]
    assert read == given_rules


@pytest.mark.slow
@given(
    policy=st.none() | policies,
    relay=st.booleans(),
    where=st.lists(endpoints, min_size=1, max_size=4, unique=True),
    suites=st.lists(st.integers(1, 255), min_size=1, max_size=16, unique=True),
    sequence=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**40 - MAX_VALIDITY_S),
    validity=st.integers(1, MAX_VALIDITY_S),
)
@settings(max_examples=60, deadline=None)
def test_descriptor_survives_its_encoding(policy, relay, where, suites, sequence, start, validity):
    roles = {Role.EXIT} if policy is not None else set()
    if relay or not roles:
        roles.add(Role.RELAY)
    descriptor = sign_descriptor(
        ALICE,
        network_id="property",
        onion_keys=[OnionKey(1, ALICE.onion_key)],
        esp_suites=suites,
        endpoints=where,
        roles=roles,
        exit_policy=policy,
        bandwidth_kbit=1,
        sequence=sequence,
        valid_from=start,
        expires=start + validity,
    )
    assert (descriptor.roles, descriptor.exit_policy) == (roles, policy)
    assert (descriptor.endpoints, descriptor.esp_suites) == (tuple(where), tuple(suites))
    parsed = UnverifiedDescriptor.parse(descriptor.encoded)
    assert parsed.verify(network_id="property", now=start + validity - 1) == descriptor
