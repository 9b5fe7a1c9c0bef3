from __future__ import annotations

import dataclasses
from random import Random

import pytest
from link_lab import NOW, Host

from overlay.errors import Malformed, NotAuthentic, PeerError
from overlay.ipsec.suites import SUITES
from overlay.link.cookie import ReceiverKeys, with_macs
from overlay.link.exchange import Credentials, OpenedInitiation, SentInitiation
from overlay.link.handshake import (
    GEOMETRY,
    IdentityProof,
    Initiation,
    InitiationPayload,
    MessageType,
    Notice,
    Response,
    ResponsePayload,
    parse_message,
)
from overlay.link.keymat import is_authentic_notice, make_notice

ALICE, BOB, MALLORY = Host(1), Host(2), Host(3)
ALICE_KEYS = Credentials.of(ALICE.identity, "lab", (3, 4))
BOB_KEYS = Credentials.of(BOB.identity, "lab", (4, 3))
PROOF = IdentityProof(bytes(32), bytes(64))


def sent_by(credentials: Credentials = ALICE_KEYS) -> SentInitiation:
    return SentInitiation.create(
        credentials,
        BOB.peer,
        index=7,
        inbound_spi=1234,
        timestamp_us=int(NOW) * 1_000_000,
        ephemeral=Random(5).randbytes(32),
    )


def parsed(message: bytes) -> Initiation:
    data = with_macs(message, ReceiverKeys.of(BOB.identity.link_key, BOB_KEYS.network_hash), None)
    initiation = parse_message(data)
    assert isinstance(initiation, Initiation)
    return initiation


def agreed(suite: int = 3):
    sent = sent_by()
    verified = OpenedInitiation.open(BOB_KEYS, parsed(sent.message)).verify()
    bobs, response = verified.respond(
        BOB_KEYS, suite=suite, inbound_spi=5678, ephemeral=Random(6).randbytes(32)
    )
    return sent, bobs, response


def test_sizes_are_those_of_the_format_page():
    assert dataclasses.asdict(GEOMETRY) == {
        "header": 6,
        "mac": 16,
        "token": 26,
        "cookie_nonce": 16,
        "suite_slots": 4,
        "initiation_payload": 112,
        "response_payload": 101,
        "initiation_noise": 208,
        "response_noise": 149,
        "initiation": 246,
        "response": 171,
        "cookie_reply": 54,
        "notice": 48,
    }


@pytest.mark.parametrize("suite", [3, 4])
def test_both_sides_derive_mirrored_keys_that_differ_by_direction_and_use(suite):
    sent, bobs, response = agreed(suite)
    alices = sent.complete(response)
    a, b = alices.secrets, bobs.secrets
    assert (a.keys.inbound_spi, a.keys.outbound_spi) == (1234, 5678)
    assert (b.keys.inbound_spi, b.keys.outbound_spi) == (5678, 1234)
    assert a.keys.inbound_keymat == b.keys.outbound_keymat
    assert a.keys.outbound_keymat == b.keys.inbound_keymat
    assert (a.notice_in, a.notice_out) == (b.notice_out, b.notice_in)
    assert len(a.keys.inbound_keymat) == SUITES[suite].keymat_bytes
    secrets = {
        s.reveal()[:20]
        for s in (a.keys.inbound_keymat, a.keys.outbound_keymat, a.notice_in, a.notice_out)
    }
    assert len(secrets) == 4


@pytest.mark.slow
def test_an_attacker_that_forges_mac1_cannot_change_a_bit():
    message = sent_by().message
    for bit in range(8 * 2, 8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(NotAuthentic):
            OpenedInitiation.open(BOB_KEYS, parsed(bytes(changed)))


def test_an_identity_that_does_not_vouch_for_the_link_key_is_not_authentic():
    stolen = dataclasses.replace(
        Credentials.of(MALLORY.identity, "lab", (3,)), proof=ALICE_KEYS.proof
    )
    opened = OpenedInitiation.open(BOB_KEYS, parsed(sent_by(stolen).message))
    with pytest.raises(NotAuthentic):
        opened.verify()


def test_a_suite_that_was_not_offered_is_malformed():
    sent, _, response = agreed(suite=1)
    with pytest.raises(Malformed):
        sent.complete(response)


NOTICES = [
    MessageType.CONFIRM,
    MessageType.CLOSE,
    MessageType.CHALLENGE,
    MessageType.ECHO,
    MessageType.OWN_ADDRESS,
]


@pytest.mark.parametrize("kind", NOTICES)
@pytest.mark.parametrize("token", [None, bytes(range(26))])
def test_a_notice_is_authentic_for_its_pair_direction_kind_and_token_alone(kind, token):
    sent, bobs, response = agreed()
    alices = sent.complete(response)
    notice = make_notice(kind, alices.secrets, token)
    assert notice.token == (token or bytes(26))
    assert parse_message(notice.encode()) == notice
    assert is_authentic_notice(notice, bobs.secrets)
    assert not is_authentic_notice(notice, alices.secrets)
    for other in NOTICES:
        changed = dataclasses.replace(notice, kind=other)
        assert is_authentic_notice(changed, bobs.secrets) is (other is kind)
    other_token = dataclasses.replace(notice, token=bytes(range(1, 27)))
    assert not is_authentic_notice(other_token, bobs.secrets)


def test_payloads_survive_the_round_trip():
    one = InitiationPayload(2**64 - 1, 256, (4, 1), PROOF)
    two = ResponsePayload(4, 2**32 - 1, PROOF)
    assert InitiationPayload.parse(one.encode()) == one
    assert ResponsePayload.parse(two.encode()) == two
    assert parse_message(Response(9, bytes(149), bytes(16)).encode()) == Response(
        9, bytes(149), bytes(16)
    )


@pytest.mark.parametrize("suites", [(), (1, 0, 2), (1, 1), (0, 1)])
def test_bad_suite_offers_are_malformed(suites):
    with pytest.raises(Malformed):
        InitiationPayload.parse(InitiationPayload(1, 256, suites, PROOF).encode())


def test_reserved_spis_are_malformed():
    with pytest.raises(Malformed):
        InitiationPayload.parse(InitiationPayload(1, 255, (1,), PROOF).encode())
    with pytest.raises(Malformed):
        ResponsePayload.parse(ResponsePayload(1, 0, PROOF).encode())
    with pytest.raises(Malformed):
        parse_message(Notice(MessageType.CLOSE, 255, bytes(26), bytes(16)).encode())


@pytest.mark.parametrize("parse", [InitiationPayload.parse, ResponsePayload.parse])
def test_payloads_of_any_other_size_are_malformed(parse):
    good = InitiationPayload(1, 256, (1,), PROOF).encode()
    if parse == ResponsePayload.parse:
        good = ResponsePayload(1, 256, PROOF).encode()
    assert parse(good)
    for data in [good + b"\0", *(good[:end] for end in range(len(good)))]:
        with pytest.raises(Malformed):
            parse(data)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x09\x01" + bytes(46), b"\x04\x02" + bytes(46)])
def test_unknown_types_and_versions_are_malformed(data):
    with pytest.raises(PeerError):
        parse_message(data)


def test_a_responder_that_shows_another_nodes_identity_is_not_authentic():
    peer = dataclasses.replace(MALLORY.peer, overlay_address=BOB.identity.overlay_address)
    stolen = dataclasses.replace(
        Credentials.of(MALLORY.identity, "lab", (3,)), proof=BOB_KEYS.proof
    )
    sent = SentInitiation.create(
        ALICE_KEYS, peer, index=7, inbound_spi=1234, timestamp_us=1, ephemeral=b"\7" * 32
    )
    _, response = (
        OpenedInitiation.open(stolen, parsed(sent.message))
        .verify()
        .respond(stolen, suite=3, inbound_spi=5678, ephemeral=b"\x08" * 32)
    )
    with pytest.raises(NotAuthentic):
        sent.complete(response)
