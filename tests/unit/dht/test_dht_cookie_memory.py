"""Cookies that are too old to be used are not kept."""

from collections import Counter
from random import Random

from dht_network import Sent

from overlay.addresses import Endpoint
from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.calls import Calls
from overlay.dht.envelope import Challenge, Envelopes
from overlay.dht.messages import Ping
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity


def test_a_cookie_is_forgotten_when_it_is_too_old_to_be_used():
    sent, rng = Sent(), Random(1)
    envelopes = Envelopes(LocalIdentity.generate(rng), "net")
    calls = Calls(envelopes, DhtSettings(), rng, sent, Counter())
    for number in range(50):
        now = 1000.0 + number * COOKIE_ROTATION_S / 10
        calls.start(Ping(), Endpoint("11.0.0.1", 1 + number), None, now, lambda *_: None)
        data, to = sent[-1]
        calls.challenged(Challenge(envelopes.parse(data).request_id, bytes(16)), to, now)
    assert calls.cookies() == 10
    assert envelopes.parse(sent[-1][0]).cookie == bytes(16)
