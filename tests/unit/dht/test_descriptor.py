from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.dht.descriptor import (
    CLOCK_SKEW_S,
    MAX_DESCRIPTOR_BYTES,
    MAX_VALIDITY_S,
    MixDescriptor,
    OnionKey,
    Role,
    UnverifiedDescriptor,
    is_public,
    sign_descriptor,
)
from overlay.errors import Malformed, NotAuthentic, Replayed
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.identity import LocalIdentity
from overlay.wire import pack_canonical, unpack_bounded

NOW = 1_800_000_000
NETWORK = "test"
ALICE = LocalIdentity.generate(Random(1))
MALLORY = LocalIdentity.generate(Random(2))
LABEL = b"overlay mix descriptor v1\0"
EVERYTHING = ExitPolicy(parse_exit_rule("accept *:*"))

SMALL_ORDER_POINTS = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    # The same points with the bit that X25519 ignores.
    "0000000000000000000000000000000000000000000000000000000000000080",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]

(
    VERSION,
    NETWORK_ID,
    IDENTITY_KEY,
    ONION_KEYS,
    LINK_KEY,
    ESP_SUITES,
    ENDPOINTS,
    ROLES,
    EXIT_POLICY,
    BANDWIDTH,
    SEQUENCE,
    VALID_FROM,
    EXPIRES,
) = range(13)


def sign(identity: LocalIdentity = ALICE, **changes: object) -> MixDescriptor:
    values: dict[str, object] = {
        "network_id": NETWORK,
        "onion_keys": [OnionKey(1, identity.onion_key)],
        "esp_suites": [3, 4],
        "endpoints": [Endpoint("198.51.101.7", 4500), Endpoint("2a00:db8::7", 4500)],
        "roles": {Role.RELAY, Role.EXIT},
        "exit_policy": EVERYTHING,
        "bandwidth_kbit": 10_000,
        "sequence": 7,
        "valid_from": NOW,
        "expires": NOW + 3 * 3600,
    }
    return sign_descriptor(identity, **{**values, **changes})  # type: ignore[arg-type]  # checked at run time


def forged(field: int, value: object, identity: LocalIdentity = ALICE) -> bytes:
    """A descriptor that is signed correctly, whatever stands in one of its fields."""
    body = unpack_bounded(sign(identity).encoded[:-64], max_bytes=MAX_DESCRIPTOR_BYTES)
    body[field] = value
    return signed(body, identity)


def signed(body: object, identity: LocalIdentity = ALICE) -> bytes:
    packed = pack_canonical(body)
    return packed + identity.sign(LABEL + packed)


def verify(encoded: bytes, now: float = NOW) -> MixDescriptor:
    return UnverifiedDescriptor.parse(encoded).verify(network_id=NETWORK, now=now)


# -- the good case -----------------------------------------------------------------------


def test_signed_descriptor_verifies_to_itself():
    descriptor = sign()
    assert verify(descriptor.encoded) == descriptor
    assert descriptor.identity_key == ALICE.identity_key
    assert descriptor.link_key == ALICE.link_key
    assert descriptor.node_id == ALICE.node_id
    assert descriptor.overlay_address == ALICE.overlay_address
    assert descriptor.onion_key(1) == ALICE.onion_key
    assert descriptor.onion_key(2) is None
    assert descriptor.endpoints[1] == Endpoint("2a00:db8::7", 4500)


def test_claims_can_be_read_before_they_are_verified():
    unverified = UnverifiedDescriptor.parse(sign().encoded)
    assert (unverified.node_id, unverified.sequence) == (ALICE.node_id, 7)
    assert unverified.expires == NOW + 3 * 3600


def test_relay_has_no_exit_policy():
    assert sign(roles=[Role.RELAY], exit_policy=None).exit_policy is None


def test_suites_of_later_versions_pass_unused():
    descriptor = sign(onion_keys=[OnionKey(1, ALICE.onion_key), OnionKey(9, b"?" * 64)])
    assert verify(descriptor.encoded).onion_key(9) == b"?" * 64


def test_largest_useful_descriptor_fits():
    hosts = [f"accept [2a00:db8:ffff::{n:x}]/128:1000-65535" for n in range(16)]
    descriptor = sign(
        network_id="n" * 32,
        endpoints=[Endpoint(f"2a00:db8::{n}", 65535) for n in range(1, 5)],
        exit_policy=ExitPolicy(tuple(r for text in hosts for r in parse_exit_rule(text))),
        esp_suites=range(1, 17),
        bandwidth_kbit=2**32 - 1,
        sequence=2**64 - 1,
    )
    assert 800 < len(descriptor.encoded) <= MAX_DESCRIPTOR_BYTES


# -- the bad ones, in the fixed order ----------------------------------------------------


def test_truncated_descriptor_is_refused():
    encoded = sign().encoded
    for size in range(len(encoded)):
        with pytest.raises((Malformed, NotAuthentic)):
            verify(encoded[:size])


def test_extended_descriptor_is_refused():
    encoded = sign().encoded
    for extended in (encoded + b"\0", b"\0" + encoded, encoded[:-64] + b"\xc0" + encoded[-64:]):
        with pytest.raises((Malformed, NotAuthentic)):
            verify(extended)


@pytest.mark.slow
def test_every_flipped_bit_is_noticed():
    encoded = sign().encoded
    for bit in range(len(encoded) * 8):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Malformed, NotAuthentic, Replayed)):
            verify(bytes(flipped))


def test_descriptor_signed_by_another_key_is_refused():
    with pytest.raises(NotAuthentic):
        verify(forged(IDENTITY_KEY, MALLORY.identity_key))


def test_signature_over_another_label_is_refused():
    body = sign().encoded[:-64]
    with pytest.raises(NotAuthentic):
        verify(body + ALICE.sign(body))


def test_other_networks_descriptor_is_refused():
    with pytest.raises(Malformed, match="another network"):
        verify(sign(network_id="other").encoded)


def test_descriptor_is_valid_until_it_expires():
    encoded = sign().encoded
    expires = NOW + 3 * 3600
    assert verify(encoded, expires - 0.001).expires == expires
    with pytest.raises(Replayed, match="expired"):
        verify(encoded, expires)


def test_publishers_clock_may_run_ahead_by_the_tolerance():
    encoded = sign().encoded
    assert verify(encoded, NOW - CLOCK_SKEW_S).valid_from == NOW
    with pytest.raises(Replayed, match="future"):
        verify(encoded, NOW - CLOCK_SKEW_S - 1)


def test_validity_has_an_upper_limit():
    assert sign(expires=NOW + MAX_VALIDITY_S).expires == NOW + 11_400
    with pytest.raises(Malformed):
        verify(forged(EXPIRES, NOW + MAX_VALIDITY_S + 1))


@pytest.mark.parametrize("point", SMALL_ORDER_POINTS)
@pytest.mark.parametrize("field", [LINK_KEY, ONION_KEYS])
def test_key_of_small_order_is_refused(field, point):
    key = bytes.fromhex(point)
    with pytest.raises(Malformed, match="small order"):
        verify(forged(field, [[1, key]] if field == ONION_KEYS else key))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (VERSION, [0, 2, 255, True, "1", None]),
        (NETWORK_ID, ["", "n" * 33, "n\n", "ñ", b"test", None, 7]),
        (IDENTITY_KEY, [b"", b"k" * 31, b"k" * 33, "k" * 32, None]),
        (
            ONION_KEYS,
            [
                [],
                None,
                [[1]],
                [[1, b"k" * 31]],
                [[1, b"k" * 33]],
                [[1, b"k" * 32, 0]],
                [[0, b"k" * 32]],
                [[256, b"k" * 32]],
                [[True, b"k" * 32]],
                [[9, b""]],
                [[9, b"k" * 65]],
                [[9, "k"]],
                [[1, b"k" * 32], [1, b"l" * 32]],
                [[suite, b"k"] for suite in range(2, 7)],
            ],
        ),
        (LINK_KEY, [b"", b"k" * 31, b"k" * 33, None]),
        (ESP_SUITES, [[], [0], [256], [3, 3], ["3"], [True], list(range(1, 18)), 3]),
        (
            ENDPOINTS,
            [
                [],
                [[b"\x01\x02\x03\x04"]],
                [[b"\x01\x02\x03\x04", 0]],
                [[b"\x01\x02\x03\x04", 65536]],
                [[b"\x01\x02\x03\x04", True]],
                [[b"\x01\x02\x03", 1]],
                [["1.2.3.4", 1]],
                [[bytes(10) + b"\xff\xff\x01\x02\x03\x04", 1]],  # IPv4 in 16 bytes
                [[bytes(4), 1]],
                [[bytes(16), 1]],
                [[b"\xff" * 4, 1]],
                [[b"\xe0\x00\x00\x01", 1]],
                [[b"\xff\x02" + bytes(13) + b"\x01", 1]],
                [[b"\x01\x02\x03\x04", 1], [b"\x01\x02\x03\x04", 1]],
                [[b"\x01\x02\x03\x04", port] for port in range(1, 6)],
            ],
        ),
        (ROLES, [0, 4, 255, True, None, [1], 1]),  # 0, 1: no exit, but an exit policy
        (EXIT_POLICY, [None, [], [[], [], []], "accept *:*"]),
        (BANDWIDTH, [-1, 2**32, None, True]),
        (SEQUENCE, [-1, None, True, b"7"]),
        (VALID_FROM, [-1, NOW + 3 * 3600, NOW + 3 * 3600 + 1, NOW - 3600, 2**64 - 1, True]),
        (EXPIRES, [NOW, NOW - 1, 0, 2**64 - 1, float(NOW + 1), None]),
    ],
)
def test_field_out_of_its_bounds_is_malformed(field, values):
    for value in values:
        with pytest.raises(Malformed):
            verify(forged(field, value))


def test_descriptor_of_another_shape_is_malformed():
    body = unpack_bounded(sign().encoded[:-64], max_bytes=MAX_DESCRIPTOR_BYTES)
    for shape in ([], None, 1, b"", body[:-1], [*body, 0], {}):
        with pytest.raises(Malformed):
            verify(signed(shape))


def test_other_encodings_of_the_same_body_are_refused():
    body = sign().encoded[:-64]
    assert body[0] == 0x90 | 13
    longer = b"\xdc\x00\x0d" + body[1:]
    with pytest.raises(Malformed, match="canonical"):
        verify(longer + ALICE.sign(LABEL + longer))


def test_descriptor_over_its_size_limit_is_refused():
    keys = [[suite, b"k" * 64] for suite in range(2, 6)]
    rule = [True, 6, 128, b"k" * 16, 1000, 65535]
    body = unpack_bounded(sign().encoded[:-64], max_bytes=MAX_DESCRIPTOR_BYTES)
    body[NETWORK_ID], body[ESP_SUITES] = "n" * 32, list(range(1, 17))
    body[ONION_KEYS], body[EXIT_POLICY] = keys, [[rule] * 16, []]
    body[ENDPOINTS] = [[b"\x20" + bytes(14) + bytes([n]), 65535] for n in range(4)]
    encoded = signed(body)
    assert len(encoded) > MAX_DESCRIPTOR_BYTES
    with pytest.raises(Malformed, match="1000 bytes"):
        verify(encoded)


def test_a_node_may_sign_that_it_has_no_role():
    without = sign(roles=[], exit_policy=None)
    assert verify(without.encoded) == without
    assert without.roles == frozenset()


# -- misuse by ourselves -------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": ""},
        {"onion_keys": []},
        {"onion_keys": [OnionKey(1, bytes(32))]},
        {"endpoints": []},
        {"endpoints": [Endpoint("host.example", 4500)]},
        {"endpoints": [Endpoint("198.51.101.7", 0)]},
        {"roles": []},  # with an exit policy
        {"roles": [Role.RELAY]},
        {"exit_policy": None},
        {"sequence": 2**64},
        {"sequence": -(2**70)},
        {"expires": NOW},
        {"expires": NOW + MAX_VALIDITY_S + 1},
        {"valid_from": NOW + 0.5},
    ],
)
def test_signing_refuses_what_no_node_would_accept(changes):
    with pytest.raises(ValueError, match="cannot be published"):
        sign(**changes)


def test_signing_refuses_a_policy_that_does_not_fit():
    rules = tuple(
        rule for n in range(16) for rule in parse_exit_rule(f"accept [2a00:db8::{n:x}]/128:1-9999")
    )
    keys = [OnionKey(suite, b"k" * 64) for suite in range(2, 6)]
    with pytest.raises(ValueError, match="1000 bytes"):
        sign(
            exit_policy=ExitPolicy(rules),
            onion_keys=keys,
            network_id="n" * 32,
            esp_suites=range(1, 17),
            endpoints=[Endpoint(f"2a00:db8::{n}", 4500) for n in range(1, 5)],
        )


def test_private_endpoints_are_told_from_public_ones():
    assert is_public(Endpoint("198.51.101.7", 1))
    assert is_public(Endpoint("2a00::7", 1))
    for host in ("127.0.0.1", "10.1.2.3", "169.254.1.1", "::1", "fd00::1", "fe80::1"):
        assert not is_public(Endpoint(host, 1))


def test_opened_prefixes_travel_with_the_policy():
    opened = ExitPolicy(parse_exit_rule("accept *:80"), (ip_network("10.0.0.0/8"),))
    assert verify(sign(exit_policy=opened).encoded).exit_policy == opened
