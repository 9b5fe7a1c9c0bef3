"""XFRM messages against those that iproute2 sends, and back from bytes to values."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.addresses import Endpoint
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    Drop,
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
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.algorithms import algorithm_attributes, algorithm_names
from overlay.ipsec.xfrm.attributes import user_tmpl
from overlay.ipsec.xfrm.entries import (
    OWNER,
    asks_for_mark,
    counters_of,
    found_identity,
    found_policy_id,
    is_ours,
    new_association,
    new_policy,
    policy_id,
    priority,
    sa_id,
)
from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_ALLOCSPI,
    XFRM_MSG_DELPOLICY,
    XFRM_MSG_DELSA,
    XFRM_MSG_FLUSHSA,
    XFRM_MSG_GETPOLICY,
    XFRM_MSG_GETSA,
    XFRM_MSG_GETSADINFO,
    XFRM_MSG_GETSPDINFO,
    XFRM_MSG_NEWPOLICY,
    XFRM_MSG_NEWSA,
    aevent_id,
    sadinfo,
    spdinfo,
    user_acquire,
    user_expire,
    user_mapping,
    user_polexpire,
    userpolicy_id,
    userpolicy_info,
    usersa_flush,
    usersa_id,
    usersa_info,
    userspi_info,
)
from overlay.sensitive import SecretBytes

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "xfrm-iproute2.json").read_text())
HEADER_BYTES = 16
USER_OFFSET = HEADER_BYTES + 52
ALICE, MIX = Endpoint("10.0.0.1", 4500), Endpoint("10.0.0.2", 4501)
V1 = bytes.fromhex("fd6d6978000000000000000000000001")
C0 = bytes.fromhex("fd636972000000000000000000000010")


def link(suite):
    return SecurityAssociation(
        spi=Spi(0x1234),
        reqid=7,
        source=ALICE.packed,
        destination=MIX.packed,
        suite=suite,
        keymat=SecretBytes(bytes(range(1, SUITES[suite].keymat_bytes + 1))),
        inbound=True,
        replay_window=256,
        encapsulation=UdpEncapsulation(ALICE, MIX),
    )


def onion(**changes):
    return replace(link(3), source=C0, destination=V1, encapsulation=None, **changes)


POLICY = SecurityPolicy(
    PolicyDirection.IN,
    Selector(ANY_V6, Prefix.host(V1), 17),
    (Template(C0, V1, 65538), Template(ALICE.packed, MIX.packed, 7)),
)
LIFETIME = Lifetime(
    soft_bytes=1000, hard_bytes=2000, soft_packets=3000, hard_packets=4000, soft_s=49.5, hard_s=60.0
)
ASSOCIATIONS = {
    "aes-256-gcm": link(3),
    "chacha20-poly1305": link(4),
    "aes-192-cbc-sha256": link(6),
    "3des-cbc-sha1": link(11),
}


def encoded(message, kind=0):
    message["header"]["type"] = kind
    message.encode()
    return bytes(message.data)


def decoded(cls, data):
    message = cls(data)
    message.decode()
    return message


def parts(data, struct_bytes):
    """Type, body and attributes, without what differs from program to program."""
    length, kind = struct.unpack_from("=IH", data)
    assert length == len(data)
    body = data[HEADER_BYTES : HEADER_BYTES + struct_bytes]
    rest, attributes = data[HEADER_BYTES + struct_bytes :], {}
    while rest:
        size, number = struct.unpack_from("=HH", rest)
        attributes[number] = rest[4:size]
        rest = rest[(size + 3) & ~3 :]
    return kind, body, attributes


def without_owner(data):
    assert data[USER_OFFSET : USER_OFFSET + 4] == struct.pack("=I", OWNER)
    return data[:USER_OFFSET] + bytes(4) + data[USER_OFFSET + 4 :]


def theirs(name):
    return bytes.fromhex(VECTORS[name]["message"])


@pytest.mark.parametrize("name", ASSOCIATIONS)
def test_a_link_sa_is_encoded_as_iproute2_does(name):
    ours = encoded(new_association(ASSOCIATIONS[name]), XFRM_MSG_NEWSA)
    assert parts(without_owner(ours), 224) == parts(theirs(name), 224)


def test_an_outbound_onion_sa_with_limits_is_encoded_as_iproute2_does():
    sa = onion(inbound=False, tfc_pad_to=1300, lifetime=LIFETIME)
    ours = encoded(new_association(sa, start=0x6789ABCD), XFRM_MSG_NEWSA)
    assert parts(without_owner(ours), 224) == parts(theirs("onion-outbound"), 224)


def test_a_policy_is_encoded_as_iproute2_does():
    ours = encoded(new_policy(POLICY), XFRM_MSG_NEWPOLICY)
    assert parts(without_owner(ours), 168) == parts(theirs("policy"), 168)


def test_what_iproute2_sends_is_decoded():
    message = decoded(usersa_info, theirs("aes-192-cbc-sha256"))
    assert found_identity(message) == SaIdentity(Spi(0x1234), MIX.packed)
    assert not is_ours(message)
    mac, cipher = message.get_attr("XFRMA_ALG_AUTH_TRUNC"), message.get_attr("XFRMA_ALG_CRYPT")
    assert (mac["name"].rstrip(b"\0"), mac["icv_len"]) == (b"hmac(sha256)", 128)
    assert mac["key"] == bytes(range(25, 57))
    assert (cipher["name"].rstrip(b"\0"), cipher["key"]) == (b"cbc(aes)", bytes(range(1, 25)))
    ports = message.get_attr("XFRMA_ENCAP")
    assert (ports["type"], ports["sport"], ports["dport"]) == (2, 4500, 4501)
    assert message.get_attr("XFRMA_REPLAY_ESN_VAL")["replay_window"] == 256

    policy = decoded(userpolicy_info, theirs("policy"))
    onion_template, link_template = policy.get_attr("XFRMA_TMPL")
    assert (onion_template["saddr"], onion_template["daddr"]) == (C0, V1)
    assert link_template["daddr"][:4] == MIX.packed
    assert not is_ours(policy)


@pytest.mark.parametrize(
    ("name", "cls", "kind"),
    [
        ("aes-256-gcm", usersa_info, XFRM_MSG_NEWSA),
        ("marked", usersa_info, XFRM_MSG_NEWSA),
        ("policy", userpolicy_info, XFRM_MSG_NEWPOLICY),
        ("allocspi", userspi_info, XFRM_MSG_ALLOCSPI),
        ("sad-info", sadinfo, XFRM_MSG_GETSADINFO),
        ("spd-info", spdinfo, XFRM_MSG_GETSPDINFO),
        ("sa-get", usersa_id, XFRM_MSG_GETSA),
        ("sa-delete", usersa_id, XFRM_MSG_DELSA),
        ("sa-flush", usersa_flush, XFRM_MSG_FLUSHSA),
        ("policy-get", userpolicy_id, XFRM_MSG_GETPOLICY),
        ("policy-delete", userpolicy_id, XFRM_MSG_DELPOLICY),
    ],
)
def test_each_message_of_iproute2_is_decoded_and_encoded_to_the_same_bytes(name, cls, kind):
    message, again = decoded(cls, theirs(name)), cls()
    assert message["header"]["type"] == kind
    again.update({field: message[field] for field, fmt in cls.fields if not fmt.endswith("x")})
    again["attrs"] = [(each[0], each[1]) for each in message.get("attrs", ())]
    ours = encoded(again, kind)
    (length,) = struct.unpack_from("=I", ours)
    assert ours[length:] == bytes(-length % 4), "only padding lies beyond the length"
    size = cls.struct_bytes()
    assert parts(ours[:length], size) == parts(theirs(name), size)


def test_marks_and_interfaces_of_iproute2_are_decoded():
    message = decoded(usersa_info, theirs("marked"))
    mark = message.get_attr("XFRMA_MARK")
    assert (mark["v"], mark["m"]) == (5, 0xFF)
    assert message.get_attr("XFRMA_SET_MARK") == 7
    assert message.get_attr("XFRMA_SET_MARK_MASK") == 0xF
    assert message.get_attr("XFRMA_IF_ID") == 9
    assert message["lft_soft_packet_limit"] == 10
    assert message.get_attr("XFRMA_ALG_AUTH")["name"].rstrip(b"\0") == b"hmac(sha1)"


@pytest.mark.parametrize(
    ("cls", "size"),
    [
        (user_tmpl, 64),
        (usersa_info, 224),
        (usersa_id, 24),
        (usersa_flush, 1),
        (userpolicy_info, 168),
        (userpolicy_id, 64),
        (user_expire, 232),
        (user_polexpire, 176),
        (user_acquire, 280),
        (userspi_info, 232),
        (aevent_id, 48),
        (user_mapping, 64),
        (sadinfo, 4),
        (spdinfo, 4),
    ],
)
def test_structs_are_as_large_as_the_kernels(cls, size):
    assert cls.struct_bytes() == size


@pytest.mark.parametrize(
    "cls",
    [user_expire, user_polexpire, user_acquire, userpolicy_id, usersa_id,
     userspi_info, aevent_id, user_mapping],
)  # fmt: skip
def test_messages_survive_a_round_trip(cls):
    message = cls()
    values = {
        name: bytes([number]) * int(fmt[:-1]) if fmt.endswith("s") else number % 251
        for number, (name, fmt) in enumerate(cls.fields, 1)
        if not fmt.endswith("x")
    }
    message.update(values)
    again = decoded(cls, encoded(message))
    assert {name: again[name] for name in values} == values


def test_entries_of_ours_are_known_by_both_signs():
    sa = decoded(usersa_info, encoded(new_association(onion())))
    policy = decoded(userpolicy_info, encoded(new_policy(POLICY)))
    assert is_ours(sa)
    assert is_ours(policy)
    sa["reqid"] = 7
    assert not is_ours(sa)
    for field, value in (("sel_user", 0), ("sel_user", 1000)):
        policy[field] = value
        assert not is_ours(policy)


def test_a_found_policy_is_deleted_by_the_identity_it_was_installed_with():
    found = decoded(userpolicy_info, encoded(new_policy(POLICY)))
    assert encoded(found_policy_id(found)) == encoded(policy_id(POLICY))


FROM_PROGRAMS = replace(
    POLICY,
    direction=PolicyDirection.OUT,
    selector=Selector(Prefix(b"\xfd\x99" + bytes(14), 128), ANY_V6),
)


def test_policies_for_ipv6_packets_of_programs_are_for_marked_ones_where_these_are_cut():
    found = decoded(userpolicy_info, encoded(new_policy(FROM_PROGRAMS, 0x6D66)))
    mark = found.get_attr("XFRMA_MARK")
    assert (mark["v"], mark["m"]) == (0x6D66, 0xFFFEFFFF), "with the bit of large packets, or not"
    assert encoded(found_policy_id(found)) == encoded(policy_id(FROM_PROGRAMS, 0x6D66))
    assert encoded(policy_id(FROM_PROGRAMS, 0x6D66)) != encoded(policy_id(FROM_PROGRAMS))


@pytest.mark.parametrize(
    "other",
    [
        replace(FROM_PROGRAMS, direction=PolicyDirection.IN),
        replace(FROM_PROGRAMS, selector=Selector(Prefix.host(V1), ANY_V6)),
        replace(FROM_PROGRAMS, selector=Selector(Prefix.host(C0), ANY_V6)),
        replace(FROM_PROGRAMS, selector=Selector(ANY_V6, Prefix(b"\xfd\x99" + bytes(14), 128))),
        replace(FROM_PROGRAMS, selector=Selector(Prefix(b"\x64\x40\x00\x02", 32), ANY_V4)),
    ],
    ids=["inbound", "of the node", "of a circuit", "an answer at an exit", "IPv4"],
)
def test_other_policies_take_packets_whatever_their_mark(other):
    assert asks_for_mark(FROM_PROGRAMS)
    assert encoded(new_policy(other, 0x6D66)) == encoded(new_policy(other))
    assert encoded(policy_id(other, 0x6D66)) == encoded(policy_id(other))


def test_sa_identity_keeps_family_and_spi():
    for sa in (onion(), link(3)):
        message = decoded(usersa_id, encoded(sa_id(sa.identity)))
        assert (message["spi"], message["family"]) == (0x1234, 10 if len(sa.source) == 16 else 2)


def test_the_more_specific_selector_has_the_lower_priority():
    own, other = Prefix.host(V1), Prefix.host(C0)
    wide = Prefix(V1[:4] + bytes(12), 32)
    ordered = [
        Selector(other, own, 17),
        Selector(other, own),
        Selector(wide, own, 50),
        Selector(wide, own),
        Selector(ANY_V6, own, 17),
        Selector(ANY_V6, own),
        Selector(other, wide, 17),
        Selector(other, wide),
        Selector(other, ANY_V6),
        Selector(ANY_V6, ANY_V6),
    ]
    priorities = [priority(selector) for selector in ordered]
    assert priorities == sorted(set(priorities))
    assert priority(Selector(ANY_V4, ANY_V4)) < 2**32


def test_host_bits_of_a_prefix_do_not_reach_the_kernel():
    loose = replace(POLICY, selector=Selector(ANY_V6, Prefix(V1, 32), 17))
    strict = replace(POLICY, selector=Selector(ANY_V6, Prefix(V1[:4] + bytes(12), 32), 17))
    assert encoded(new_policy(loose)) == encoded(new_policy(strict))


@pytest.mark.parametrize("number", SUITES)
def test_algorithms_get_exactly_the_key_material(number):
    suite = SUITES[number]
    keymat = bytes(range(suite.keymat_bytes))
    attributes = dict(algorithm_attributes(suite, SecretBytes(keymat)))
    names = {value["name"].decode() for value in attributes.values()}
    assert names == set(algorithm_names(suite))
    by_order = ("XFRMA_ALG_AEAD", "XFRMA_ALG_CRYPT", "XFRMA_ALG_AUTH_TRUNC")
    keys = [attributes[name]["key"] for name in by_order if name in attributes]
    assert b"".join(keys) == keymat
    assert all(value["key_len"] == 8 * len(value["key"]) for value in attributes.values())
    sizes = [value["icv_len"] for value in attributes.values() if "icv_len" in value]
    assert sizes == [8 * suite.icv_bytes]


def test_counters_come_from_lifetime_window_and_statistics():
    message = decoded(usersa_info, encoded(new_association(onion())))
    message.update(
        curlft_packets=5, curlft_bytes=700, stats_replay=1, stats_replay_window=2,
        stats_integrity_failed=4,
    )  # fmt: skip
    message["attrs"] = [
        ("XFRMA_REPLAY_ESN_VAL", {"seq": 9, "seq_hi": 1, "oseq": 0, "oseq_hi": 0}),
        ("XFRMA_LASTUSED", 1_700_000_000),
    ]
    counters = counters_of(message)
    assert (counters.packets, counters.payload_bytes) == (5, 700)
    assert (counters.sequence, counters.last_used) == (2**32 + 9, None)
    assert dict(counters.drops) == {Drop.IN_STATE_SEQ_ERROR: 3, Drop.IN_STATE_PROTO_ERROR: 4}
