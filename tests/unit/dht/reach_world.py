"""A node whose endpoint is tested, with asked nodes that say and do what a test tells them."""

from collections import Counter
from random import Random

from dht_network import NETWORK_ID, START, make_descriptor, make_identity, public_endpoint

from overlay.addresses import Endpoint
from overlay.dht.calls import VerifiedReply
from overlay.dht.contacted import Contacted
from overlay.dht.envelope import Envelopes, network_tag, parse_datagram
from overlay.dht.help_messages import ProbeProgress, ProbeState
from overlay.dht.messages import Contact, Ping
from overlay.dht.reach_tests import ReachTests
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap

OWN = make_identity(0)
HERE = public_endpoint(0)
PROBER = make_identity(99)
REFUSED, PENDING, SENT = ProbeProgress


def contact(number, *, host=None):
    """Node ``number`` in a prefix of its own, or at ``host``."""
    endpoint = Endpoint(host, 4500) if host else public_endpoint(number)
    return Contact.of(make_identity(number).identity_key, endpoint)


class World:
    """Drives the tests of one endpoint; ``asked`` holds the requests under way."""

    def __init__(self, count=9, *, interval_s=600.0):
        self.heap = EventHeap(START)
        self.known = [contact(number) for number in range(1, count + 1)]
        self.asked, self.changes, self.counts = [], [], Counter()
        self.tests = ReachTests(
            OWN.node_id,
            NETWORK_ID,
            self,
            Random(1),
            contacts=lambda version: [each for each in self.known if version == 4],
            contacted=Contacted(),
            events=self.changes,
            counts=self.counts,
        )
        sign = lambda now: make_descriptor(OWN, HERE, now=now).encoded  # noqa: E731
        self.follow = lambda: self.tests.follow([HERE], sign, interval_s=interval_s, now=self.now)
        self.follow()

    def start(self, request, endpoint, responder, now, on_answer):
        """Take the place of ``Calls``."""
        self.asked.append((request, endpoint, responder, on_answer))

    @property
    def now(self):
        return self.heap.now

    @property
    def standing(self):
        return self.tests.standings()[HERE].value

    def wait(self, seconds):
        """Let time pass, and handle each deadline on the way."""
        run_with_deadlines(self.heap, self.now + seconds, lambda: [self.tests])

    def answer(self, progress, *, count=None):
        """Answer the requests under way, or the first ``count``; None is silence."""
        answered, self.asked = self.asked[:count], self.asked[count:] if count else []
        for _, endpoint, responder, on_answer in answered:
            reply = ProbeState(progress) if progress is not None else None
            who = next(c for c in self.known if c.node_id == responder)
            assert who.endpoint == endpoint
            on_answer(VerifiedReply(who, reply) if reply else None, self.now)
        return [request for request, *_ in answered]

    def round(self, progress=SENT):
        """Let a whole round pass in which every asked node says ``progress``."""
        self.wait_for_round()
        requests = self.answer(progress)
        self.wait(2.5)
        return requests

    def wait_for_round(self):
        for _ in range(100_000):
            if self.asked:
                return
            self.wait(1)
        raise AssertionError("no round began")

    def probe(self, nonce, source, *, identity=PROBER, responder=OWN.node_id, request=None):
        """Let a probe arrive; tell whether the tests took it."""
        data = Envelopes(identity, NETWORK_ID).request(
            request or Ping(),
            request_id=nonce,
            responder=responder,
            sent_to=HERE,
            cookie=b"c" * 16,
        )
        message = parse_datagram(data, network_tag(NETWORK_ID))
        return self.tests.arrived(message, source, self.now)
