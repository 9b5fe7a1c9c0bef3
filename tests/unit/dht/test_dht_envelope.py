"""The signed datagram: round trips, and the fixed order of negative tests."""

from random import Random

import pytest
from dht_network import make_descriptor, make_identity, public_endpoint

from overlay.addresses import Endpoint
from overlay.dht.descriptor import MAX_DESCRIPTOR_BYTES
from overlay.dht.envelope import (
    MAX_DATAGRAM_BYTES,
    Challenge,
    Envelopes,
    OtherNetwork,
    UnverifiedReply,
    UnverifiedRequest,
    network_tag,
    parse_datagram,
)
from overlay.dht.messages import (
    Contact,
    Contacts,
    FindNode,
    FindRecord,
    Leave,
    Left,
    Ping,
    Pong,
    Record,
    Store,
    Stored,
    contacts_that_fit,
)
from overlay.errors import Malformed, NotAuthentic, PeerError
from overlay.wire import pack_canonical

NET = "test-net"
TAG = network_tag(NET)
ALICE = Envelopes(make_identity(1), NET)
BOB = Envelopes(make_identity(2), NET)
BOB_ID = make_identity(2).node_id
V4 = Endpoint("80.1.2.3", 4500)
V6 = Endpoint("2a00::1", 65535)
RECORD = make_descriptor(make_identity(1), public_endpoint(1)).encoded

REQUESTS = [Ping(), FindNode(bytes(20)), FindRecord(b"k" * 20), Store(RECORD), Leave(2**64 - 1)]
REPLIES = [
    Pong(),
    Contacts(()),
    Contacts((Contact.of(b"a" * 32, V4), Contact.of(b"b" * 32, V6))),
    Record(RECORD),
    Stored(True),
    Stored(False),
    Left(),
]


def request_bytes(request=None, responder=BOB_ID, sent_to=V4, cookie=b"c" * 16):
    return ALICE.request(
        request or FindNode(b"t" * 20),
        request_id=b"i" * 12,
        responder=responder,
        sent_to=sent_to,
        cookie=cookie,
    )


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("responder", [None, BOB_ID])
@pytest.mark.parametrize("sent_to", [V4, V6])
@pytest.mark.parametrize("cookie", [b"", b"c" * 16])
def test_request_comes_back_as_it_was(request_, responder, sent_to, cookie):
    data = request_bytes(request_, responder, sent_to, cookie)
    parsed = parse_datagram(data, TAG)
    assert isinstance(parsed, UnverifiedRequest)
    assert parsed.verify(NET) == request_
    assert parsed.sender == make_identity(1).node_id
    assert (parsed.responder, parsed.sent_to, parsed.cookie) == (responder, sent_to, cookie)


@pytest.mark.parametrize("reply", REPLIES)
def test_reply_comes_back_as_it_was(reply):
    data = request_bytes()
    parsed = parse_datagram(BOB.reply(reply, parse_datagram(data, TAG)), TAG)
    assert isinstance(parsed, UnverifiedReply)
    assert parsed.sender == BOB_ID
    assert parsed.verify(NET, data) == reply


def test_largest_messages_fit_one_datagram():
    store = request_bytes(Store(b"r" * MAX_DESCRIPTOR_BYTES), sent_to=V6)
    contacts = [Contact.of(bytes([n]) * 32, Endpoint("2a00::1", 65535)) for n in range(30)]
    full = contacts_that_fit(contacts, 30)
    assert len(full.contacts) == 20
    replies = [BOB.reply(r, parse_datagram(store, TAG)) for r in (full, Record(b"r" * 1000))]
    assert len(store) <= MAX_DATAGRAM_BYTES
    assert all(len(reply) <= MAX_DATAGRAM_BYTES for reply in replies)


def test_challenge_is_smaller_than_the_smallest_request():
    challenge = BOB.challenge(b"i" * 12, b"c" * 16)
    smallest = request_bytes(Ping(), responder=None, cookie=b"")
    assert parse_datagram(challenge, TAG) == Challenge(b"i" * 12, b"c" * 16)
    assert len(challenge) < 50 < len(smallest)


@pytest.mark.parametrize("of", [request_bytes, lambda: BOB.challenge(b"i" * 12, b"c" * 16)])
def test_truncated_and_extended_datagrams_are_malformed(of):
    data = of()
    for size in range(len(data)):
        with pytest.raises(Malformed):
            parse_datagram(data[:size], TAG)
    with pytest.raises(Malformed):
        parse_datagram(data + b"\0", TAG)


@pytest.mark.slow
def test_every_flipped_bit_of_a_request_is_refused():
    data = request_bytes()
    for position in range(8 * len(data)):
        bent = bytearray(data)
        bent[position // 8] ^= 1 << position % 8
        with pytest.raises(PeerError):
            parse_datagram(bytes(bent), TAG).verify(NET)


def test_every_flipped_bit_of_a_reply_is_refused():
    request = request_bytes()
    data = BOB.reply(Stored(True), parse_datagram(request, TAG))
    for position in range(8 * len(data)):
        bent = bytearray(data)
        bent[position // 8] ^= 1 << position % 8
        with pytest.raises(PeerError):
            parse_datagram(bytes(bent), TAG).verify(NET, request)


def test_reply_answers_one_request_only():
    request = request_bytes()
    reply = parse_datagram(BOB.reply(Pong(), parse_datagram(request, TAG)), TAG)
    for other in (
        request_bytes(Ping()),
        request_bytes(responder=None),
        request_bytes(sent_to=V6),
        request_bytes(cookie=b""),
    ):
        with pytest.raises(NotAuthentic):
            reply.verify(NET, other)


def test_reply_is_no_request_and_signatures_bind_the_network():
    request = parse_datagram(request_bytes(), TAG)
    with pytest.raises(NotAuthentic):
        request.verify("other-net")
    with pytest.raises(OtherNetwork):
        parse_datagram(request_bytes(), network_tag("other-net"))


def test_datagram_over_its_limit_is_malformed():
    fields = [1, TAG, 12, b"i" * 12, b"k" * 32, [[b"x" * 1200]], b"s" * 64]
    with pytest.raises(Malformed, match="larger"):
        parse_datagram(pack_canonical(fields), TAG)


def test_other_version_is_told_apart_from_junk():
    with pytest.raises(OtherNetwork):
        parse_datagram(pack_canonical([2, TAG, 0, b"i" * 12, b"c" * 16]), TAG)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        None,
        7,
        [],
        [1, TAG, 0, b"i" * 12],
        [True, TAG, 0, b"i" * 12, b"c" * 16],
        [1, "text", 0, b"i" * 12, b"c" * 16],
        [1, TAG, 0, b"i" * 11, b"c" * 16],
        [1, TAG, 0, b"i" * 12, b"c" * 15],
        [1, TAG, 0, b"i" * 12, b"c" * 16, b""],
        [1, TAG, 99, b"i" * 12, b"c" * 16],
        [1, TAG, -1, b"i" * 12, b"c" * 16],
        [1, TAG, 1.0, b"i" * 12, b"c" * 16],
        [1, TAG, 11, b"i" * 12, b"k" * 31, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3", 9, b"", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", 0, b"", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", 65536, b"", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", True, b"", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"x", b"\1\2\3\4", 9, b"", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", 9, b"c", b"k" * 32, [], b"s" * 64],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", 9, b"", b"k" * 32, [], b"s" * 63],
        [1, TAG, 1, b"i" * 12, b"", b"\1\2\3\4", 9, b"", b"k" * 32, [1], b"s" * 64],
    ],
)
def test_wrong_types_and_sizes_are_malformed(fields):
    with pytest.raises(Malformed):
        parse_datagram(pack_canonical(fields), TAG)


def test_forger_without_the_key_is_not_authentic():
    data = bytearray(request_bytes())
    data[-64:] = Random(1).randbytes(64)
    with pytest.raises(NotAuthentic):
        parse_datagram(bytes(data), TAG).verify(NET)
