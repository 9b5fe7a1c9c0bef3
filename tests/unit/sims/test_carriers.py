"""The carrier that passes values says of each message exactly what its encoding would be."""

import pytest
from dht_vocabulary import REPLIES, REQUESTS

from overlay.addresses import Endpoint
from overlay.dht.envelope import Challenge, Envelopes
from overlay.errors import NotAuthentic
from overlay.identity import LocalIdentity
from sims.world.engine.streams import Streams
from sims.world.participants.carriers import EncodedCarrier, ValueCarrier

ALICE = LocalIdentity.generate(Streams(1).stream("alice"))
BOB = LocalIdentity.generate(Streams(1).stream("bob"))
ENDPOINTS = [Endpoint("11.0.0.1", 4500), Endpoint("2600::1", 200), Endpoint("11.0.0.1", 100)]


def both(identity):
    return [carrier.envelopes(identity, "net") for carrier in (EncodedCarrier(), ValueCarrier())]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("responder", [None, BOB.node_id])
@pytest.mark.parametrize("cookie", [b"", bytes(16)])
@pytest.mark.parametrize("sent_to", ENDPOINTS)
def test_a_request_has_the_size_and_kind_of_its_encoding(request_, responder, cookie, sent_to):
    encoded, value = [
        envelopes.request(
            request_, request_id=bytes(12), responder=responder, sent_to=sent_to, cookie=cookie
        )
        for envelopes in both(ALICE)
    ]
    assert ValueCarrier().measure(value) == EncodedCarrier().measure(encoded)
    assert len(value) == len(encoded)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_has_the_size_kind_and_content_of_its_encoding(reply):
    measured, contents = [], []
    for carrier in (EncodedCarrier(), ValueCarrier()):
        ours, theirs = (carrier.envelopes(who, "net") for who in (ALICE, BOB))
        asked = ours.request(
            REQUESTS[0], request_id=bytes(12), responder=None, sent_to=ENDPOINTS[0], cookie=b""
        )
        answer = theirs.reply(reply, theirs.parse(asked))
        measured.append(carrier.measure(answer))
        contents.append(ours.parse(answer).verify("net", asked))
    assert measured[0] == measured[1]
    assert contents[0] == contents[1] == reply


def test_a_challenge_has_its_size_and_kind():
    encoded, value = [envelopes.challenge(bytes(12), bytes(16)) for envelopes in both(ALICE)]
    assert ValueCarrier().measure(value) == EncodedCarrier().measure(encoded)
    assert len(value) == len(encoded)
    assert isinstance(Envelopes(ALICE, "net").parse(encoded), Challenge)


def test_a_reply_to_another_request_is_not_authentic():
    ours, theirs = (ValueCarrier().envelopes(who, "net") for who in (ALICE, BOB))
    first, second = [
        ours.request(
            REQUESTS[0], request_id=bytes(12), responder=None, sent_to=ENDPOINTS[0], cookie=b""
        )
        for _ in range(2)
    ]
    answer = ours.parse(theirs.reply(REPLIES[0], theirs.parse(first)))
    with pytest.raises(NotAuthentic):
        answer.verify("net", second)
