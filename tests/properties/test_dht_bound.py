"""Until an address has echoed a cookie, it never gets more bytes than it sent."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.envelope import Challenge, Envelopes, network_tag, parse_datagram
from overlay.dht.help_messages import Meet, SendProbe, WantProbe
from overlay.dht.messages import FindNode, FindRecord, Leave, Ping, Store
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity

NET = "bound-net"
TAG = network_tag(NET)
NOW = 1_700_000_000
ALICE = LocalIdentity.generate(Random(1))
PEERS = [LocalIdentity.generate(Random(number)) for number in range(10, 14)]
ALICE_AT = Endpoint("80.0.0.1", 4500)
SOURCES = [Endpoint(f"80.0.{number}.1", 4500) for number in range(1, 5)]
RECORD = sign_descriptor(
    ALICE,
    network_id=NET,
    onion_keys=[OnionKey(1, ALICE.onion_key)],
    esp_suites=[3],
    endpoints=[ALICE_AT],
    roles=[Role.RELAY],
    exit_policy=None,
    bandwidth_kbit=1,
    sequence=1,
    valid_from=NOW,
    expires=NOW + 10_000,
)

requests = st.sampled_from(
    [
        Ping(),
        FindNode(ALICE.node_id),
        FindRecord(ALICE.node_id),
        Store(RECORD.encoded),
        Leave(7),
        WantProbe(RECORD.encoded, 4500, b"n" * 12),
        SendProbe(RECORD.encoded, ALICE_AT, b"n" * 12),
        Meet(ALICE.node_id, b"s" * 320),
    ]
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from(SOURCES),
            st.sampled_from(PEERS),
            requests,
            st.sampled_from(["none", "junk", "stolen"]),
        ),
        st.tuples(st.just("junk"), st.sampled_from(SOURCES), st.binary(max_size=200)),
        st.tuples(st.just("prove"), st.sampled_from(SOURCES), st.sampled_from(PEERS), requests),
        st.tuples(st.just("wait"), st.floats(0.01, 700)),
    ),
    max_size=25,
)


class Ledger:
    """Bytes in and out of one core, per address; forgets the addresses that proved themselves."""

    def __init__(self):
        self.dht = Dht(ALICE, network_id=NET, settings=DhtSettings(), rng=Random(5))
        self.dht.publish(RECORD, NOW)
        self.now = float(NOW)
        self.received = Counter()
        self.sent = Counter()
        self.proven = set()
        self.stolen = b""

    def feed(self, data, source):
        self.received[source] += len(data)
        self.dht.receive([(data, source)], self.now)
        return self.drain()

    def drain(self):
        datagrams = self.dht.datagrams_to_send(self.now)
        for data, destination in datagrams:
            self.sent[destination] += len(data)
        return datagrams

    def request(self, peer, request, cookie):
        return Envelopes(peer, NET).request(
            request,
            request_id=b"i" * 12,
            responder=ALICE.node_id,
            sent_to=ALICE_AT,
            cookie=cookie,
        )

    def do(self, step):
        match step:
            case "ask", source, peer, request, kind:
                cookie = {"none": b"", "junk": b"j" * 16, "stolen": self.stolen}[kind]
                self.feed(self.request(peer, request, cookie), source)
            case "junk", source, data:
                self.feed(data, source)
            case "prove", source, peer, request:
                self.proven.add(source)
                for data, _ in self.feed(self.request(peer, Ping(), b""), source):
                    message = parse_datagram(data, TAG)
                    if isinstance(message, Challenge):
                        # A cookie of another address or node must prove nothing.
                        self.stolen = message.cookie
                        self.feed(self.request(peer, request, message.cookie), source)
            case "wait", seconds:
                self.now += seconds
                self.dht.handle_deadline(self.now)
                assert self.dht.next_deadline() > self.now
                self.drain()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(steps)
def test_unproven_address_never_gets_more_bytes_than_it_sent(steps):
    ledger = Ledger()
    for step in steps:
        ledger.do(step)
        for address in set(SOURCES) - ledger.proven:
            assert ledger.sent[address] <= ledger.received[address]
    assert set(ledger.sent) <= set(SOURCES)
