"""Garbage of the DHT channel costs a look, and challenges are bounded."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.envelope import Challenge, Envelopes, UnverifiedReply
from overlay.dht.events import DhtCount
from overlay.dht.messages import FindNode, Leave, Ping, Pong, Store
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from overlay.wire import pack_canonical, unpack_bounded

NOW = 1_800_000_000.0
HERE = Endpoint("8.8.8.8", 4500)
IDENTITY = LocalIdentity.generate(Random(1))
STRANGER = Envelopes(LocalIdentity.generate(Random(2)), "lab")

requests = st.sampled_from([Ping(), FindNode(IDENTITY.node_id), Store(bytes(900)), Leave(2**63)])
endpoints = st.builds(
    Endpoint,
    st.sampled_from(["8.8.8.8", "2001:db8::1"]),
    st.integers(1, 65535) | st.sampled_from([127, 128, 255, 256]),
)


def request(cookie=b"", number=0, **changes):
    fields = {
        "request": Ping(),
        "request_id": number.to_bytes(12, "big"),
        "responder": IDENTITY.node_id,
        "sent_to": HERE,
    }
    fields |= changes
    asked = fields.pop("request")
    return STRANGER.request(asked, cookie=cookie, **fields)


def node(**settings):
    return Dht(
        IDENTITY,
        network_id="lab",
        settings=DhtSettings(**settings),
        rng=Random(3),
        endpoints=[HERE],
    )


def sources(count):
    """Endpoints in as many prefixes."""
    return [Endpoint(f"9.{number // 256}.{number % 256}.1", 4500) for number in range(count)]


@pytest.mark.slow
@given(
    asked=requests,
    sent_to=endpoints,
    responder=st.sampled_from([None, IDENTITY.node_id]),
    cookie=st.sampled_from([b"", bytes(16), b"\xc4\x00" * 8]),
)
def test_a_request_without_a_cookie_is_recognised_without_parsing_it(
    asked, sent_to, responder, cookie
):
    data = request(cookie, request=asked, sent_to=sent_to, responder=responder)
    parsed = STRANGER.parse(data)
    expected = None if cookie else (parsed.request_id, parsed.identity_key)
    assert STRANGER.bare_request(data) == expected
    assert all(STRANGER.bare_request(data[:size]) in (None, expected) for size in range(len(data)))


@given(st.binary(max_size=1300))
def test_any_bytes_may_be_looked_at(data):
    begins = request()[:27]
    for each in (data, begins + data, begins + bytes(2) + data):
        bare = STRANGER.bare_request(each)
        assert bare is None or (len(bare.identity_key) == 32 and len(each) > 45)


def test_answers_and_challenges_are_no_requests_without_a_cookie():
    challenge = STRANGER.challenge(bytes(12), bytes(16))
    reply = STRANGER.reply(Pong(), STRANGER.parse(request()))
    assert STRANGER.bare_request(challenge) is None
    assert STRANGER.bare_request(reply) is None


def test_a_challenge_is_canonical():
    data = STRANGER.challenge(b"request id 1", b"cookie of 16 byt")
    assert pack_canonical(unpack_bounded(data, max_bytes=100)) == data
    assert STRANGER.parse(data) == Challenge(b"request id 1", b"cookie of 16 byt")


def test_a_request_without_a_cookie_is_challenged_before_its_body_is_parsed():
    dht, data = node(), request(request=FindNode(IDENTITY.node_id))
    dht.receive([(data[:-1] + b"\x00", HERE), (data[:-80] + bytes(80), HERE)], NOW)
    assert dht.counters() == {DhtCount.CHALLENGED: 2}
    assert all(len(challenge) < len(data) for challenge, _ in dht.datagrams_to_send(NOW))


def test_a_bounded_number_of_challenges_leaves_a_node_each_second():
    dht = node(challenges_per_s=20)
    batch = [(request(number=n), where) for n, where in enumerate(sources(50))]
    dht.receive(batch, NOW)
    challenges = dht.datagrams_to_send(NOW)
    assert [where for _, where in challenges] == sources(20)
    assert dht.counters() == {DhtCount.CHALLENGED: 20, DhtCount.RATE_LIMITED: 30}
    dht.receive(batch[-5:], NOW + 1)
    assert len(dht.datagrams_to_send(NOW + 1)) == 5


@pytest.mark.parametrize("cookie", [b"", b"wrong" + bytes(11)])
def test_one_prefix_gets_half_of_the_challenges(cookie):
    dht = node(challenges_per_s=20)
    crowd = [Endpoint(f"9.9.9.{number}", 4500) for number in range(50)]
    dht.receive([(request(cookie, n), where) for n, where in enumerate(crowd)], NOW)
    assert len(dht.datagrams_to_send(NOW)) == 10
    dht.receive([(request(cookie), Endpoint("7.7.7.7", 4500))], NOW)
    assert len(dht.datagrams_to_send(NOW)) == 1


def test_a_valid_cookie_is_answered_when_no_challenge_is_left():
    dht = node(challenges_per_s=20)
    honest = Endpoint("7.7.7.7", 4500)
    dht.receive([(request(), honest)], NOW)
    [(challenge, _)] = dht.datagrams_to_send(NOW)
    cookie = STRANGER.parse(challenge).cookie
    dht.receive([(request(number=n), where) for n, where in enumerate(sources(50))], NOW)
    dht.datagrams_to_send(NOW)
    dht.receive([(request(cookie), honest)], NOW)
    sent = [(STRANGER.parse(data), where) for data, where in dht.datagrams_to_send(NOW)]
    assert [where for message, where in sent if isinstance(message, UnverifiedReply)] == [honest]


def test_a_greeting_is_repeated_because_a_flooded_node_reads_a_tenth_of_them():
    dht = node()
    dht.bootstrap([Endpoint("7.7.7.7", 4500)], NOW)
    sent, now = [], NOW
    while now < NOW + 2.5:
        dht.handle_deadline(now)
        sent += [now - NOW for _ in dht.datagrams_to_send(now)]
        now = dht.next_deadline()
    assert sent[1] >= 0.4, "a node that answers at once is asked once"
    assert len(sent) == 16
    assert 1.5 <= sent[-1] <= 2.0
