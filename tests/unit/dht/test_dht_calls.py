"""Calls: retries, cookies, and which answers count."""

from collections import Counter
from random import Random

import pytest
from dht_network import Sent, make_identity, public_endpoint

from overlay.dht.calls import Calls
from overlay.dht.envelope import (
    Challenge,
    Envelopes,
    UnverifiedReply,
    UnverifiedRequest,
    network_tag,
    parse_datagram,
)
from overlay.dht.events import DhtCount
from overlay.dht.messages import Contact, FindNode, Ping, Pong, Stored
from overlay.dht.settings import DhtSettings

NET = "test-net"
TAG = network_tag(NET)
NOW = 1000.0
BOB = make_identity(2)
BOB_AT = public_endpoint(2)


class Bench:
    def __init__(self):
        self.sent = Sent()
        self.answers = []
        self.counts = Counter()
        self.bob = Envelopes(BOB, NET)
        self.calls = Calls(
            Envelopes(make_identity(1), NET),
            DhtSettings(rpc_timeout_s=0.5, rpc_attempts=2),
            Random(1),
            self.sent,
            self.counts,
        )

    def ask(self, request=None, responder=BOB.node_id):
        self.calls.start(request or Ping(), BOB_AT, responder, NOW, self.answered)
        return self.request()

    def answered(self, answer, now):
        self.answers.append(answer)

    def request(self) -> UnverifiedRequest:
        data, endpoint = self.sent[-1]
        assert endpoint == BOB_AT
        return parse_datagram(data, TAG)

    def reply(self, to, reply=None, source=BOB_AT, envelopes=None, now=NOW + 0.1):
        data = (envelopes or self.bob).reply(reply or Pong(), to)
        parsed = parse_datagram(data, TAG)
        assert isinstance(parsed, UnverifiedReply)
        self.calls.replied(parsed, source, now)


@pytest.fixture
def bench():
    return Bench()


def test_answer_brings_reply_and_proven_contact(bench):
    bench.reply(bench.ask())
    (answer,) = bench.answers
    assert answer.reply == Pong()
    assert answer.contact == Contact(BOB.node_id, BOB_AT, BOB.identity_key)
    assert len(bench.calls) == 0
    assert bench.calls.next_deadline() == float("inf")


def test_silence_is_retried_with_twice_the_patience_then_reported_once(bench):
    bench.ask()
    assert bench.calls.next_deadline() == NOW + 0.5
    bench.calls.handle_deadline(NOW + 0.4)
    assert len(bench.sent) == 1
    bench.calls.handle_deadline(NOW + 0.5)
    assert len(bench.sent) == 2
    assert bench.calls.next_deadline() == NOW + 1.5
    bench.calls.handle_deadline(NOW + 1.5)
    bench.calls.handle_deadline(NOW + 9)
    assert bench.answers == [None]
    assert bench.counts[DhtCount.TIMED_OUT] == 1
    assert len(bench.sent) == 2


def test_answer_to_the_first_try_counts_after_the_second(bench):
    request = bench.ask()
    bench.calls.handle_deadline(NOW + 0.5)
    bench.reply(request)
    assert len(bench.answers) == 1
    bench.reply(request)
    assert len(bench.answers) == 1
    assert bench.counts[DhtCount.UNSOLICITED] == 1


def test_reply_from_another_address_is_dropped(bench):
    request = bench.ask()
    bench.reply(request, source=public_endpoint(3))
    assert bench.answers == []
    assert bench.counts[DhtCount.UNSOLICITED] == 1
    bench.reply(request)
    assert len(bench.answers) == 1


def test_reply_of_another_identity_is_dropped_unless_the_id_was_unknown(bench):
    mallory = Envelopes(make_identity(9), NET)
    bench.reply(bench.ask(), envelopes=mallory)
    assert bench.answers == []
    bench.reply(bench.ask(responder=None), envelopes=mallory)
    assert bench.answers[0].contact.node_id == make_identity(9).node_id


def test_reply_of_another_kind_is_dropped(bench):
    bench.reply(bench.ask(FindNode(b"t" * 20)), Stored(True))
    assert bench.answers == []


def test_reply_to_another_request_is_not_authentic_and_three_end_the_call(bench):
    bench.ask()
    stranger = Envelopes(make_identity(1), NET)
    request_id = bench.request().request_id
    for number in range(3):
        other = parse_datagram(
            stranger.request(
                Ping(),
                request_id=request_id,
                responder=BOB.node_id,
                sent_to=public_endpoint(50 + number),
                cookie=b"",
            ),
            TAG,
        )
        assert bench.answers == []
        bench.reply(other)
    assert bench.answers == [None]
    assert bench.counts[DhtCount.NOT_AUTHENTIC] == 3


def test_challenge_is_echoed_at_once_and_remembered_for_the_endpoint(bench):
    request = bench.ask()
    bench.calls.challenged(Challenge(request.request_id, b"c" * 16), BOB_AT, NOW + 0.1)
    again = bench.request()
    assert again.cookie == b"c" * 16
    assert again.request_id == request.request_id
    assert bench.calls.next_deadline() == pytest.approx(NOW + 0.1 + 0.3)  # 0.1 + 4 * 0.1 / 2
    bench.reply(again)
    assert len(bench.answers) == 1
    assert bench.ask().cookie == b"c" * 16


def test_cookie_is_forgotten_when_it_may_have_expired(bench):
    request = bench.ask()
    bench.calls.challenged(Challenge(request.request_id, b"c" * 16), BOB_AT, NOW)
    bench.calls.start(Ping(), BOB_AT, BOB.node_id, NOW + 299, bench.answers.append)
    assert bench.request().cookie == b"c" * 16
    bench.calls.start(Ping(), BOB_AT, BOB.node_id, NOW + 300, bench.answers.append)
    assert bench.request().cookie == b""


def test_challenges_without_end_are_not_followed(bench):
    request = bench.ask()
    for _ in range(10):
        bench.calls.challenged(Challenge(request.request_id, b"c" * 16), BOB_AT, NOW)
    assert len(bench.sent) == 3
    assert bench.counts[DhtCount.UNSOLICITED] == 8


def test_challenge_from_elsewhere_is_dropped(bench):
    request = bench.ask()
    bench.calls.challenged(Challenge(request.request_id, b"c" * 16), public_endpoint(3), NOW)
    bench.calls.challenged(Challenge(b"x" * 12, b"c" * 16), BOB_AT, NOW)
    assert len(bench.sent) == 1
    assert bench.counts[DhtCount.UNSOLICITED] == 2


def test_patience_follows_the_measured_round_trip(bench):
    for _ in range(30):
        bench.reply(bench.ask(), now=NOW + 0.1)
    bench.ask()
    assert bench.calls.next_deadline() == NOW + 0.2, "the lower bound: 0.1 s without deviation"
    bench.calls.cancel_all()
    for _ in range(3):
        bench.reply(bench.ask(), now=NOW + 0.45)
    bench.ask()
    assert NOW + 0.5 < bench.calls.next_deadline() < NOW + 1.0


def test_answer_to_a_repeated_request_is_not_measured(bench):
    request = bench.ask()
    bench.calls.handle_deadline(NOW + 0.5)
    bench.reply(request, now=NOW + 0.6)
    bench.ask()
    assert bench.calls.next_deadline() == NOW + 0.5, "Karn's rule: still the initial patience"


def test_challenge_is_a_measurement_too_and_makes_the_repetition_unambiguous(bench):
    request = bench.ask()
    bench.calls.challenged(Challenge(request.request_id, b"c" * 16), BOB_AT, NOW + 0.06)
    bench.reply(bench.request(), now=NOW + 0.12)
    bench.ask()
    assert bench.calls.next_deadline() == pytest.approx(NOW + 0.2)


def test_a_silent_endpoint_counts_as_unknown_again(bench):
    bench.reply(bench.ask(), now=NOW + 0.01)
    bench.ask()
    assert bench.calls.next_deadline() == NOW + 0.2
    bench.calls.handle_deadline(NOW + 0.2)
    assert bench.calls.next_deadline() == NOW + 0.2 + 0.4, "twice as long"
    bench.calls.handle_deadline(NOW + 0.6)
    assert bench.answers[-1] is None
    bench.ask()
    assert bench.calls.next_deadline() == NOW + 0.5


def test_a_node_that_misses_the_first_attempt_is_slow_once_and_may_still_answer(bench):
    slow = []
    bench.calls.start(
        Ping(), BOB_AT, BOB.node_id, NOW, bench.answered, lambda now: slow.append("slow")
    )
    bench.calls.handle_deadline(NOW + 0.5)
    assert slow == ["slow"]
    bench.reply(bench.request(), now=NOW + 0.9)
    assert len(bench.answers) == 1
    bench.calls.handle_deadline(NOW + 10)
    assert slow == ["slow"]
