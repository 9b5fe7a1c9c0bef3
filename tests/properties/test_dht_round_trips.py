"""Round trips of every message, and k-buckets against a sorted list."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import MAX_DATAGRAM_BYTES, Envelopes, network_tag, parse_datagram
from overlay.dht.help_messages import (
    MAX_PROOF_BYTES,
    MAX_SEALED_BYTES,
    Meet,
    Met,
    ProbeProgress,
    ProbeState,
    SendProbe,
    WantProbe,
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
from overlay.dht.routing import Table, distance
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity

NET = "prop-net"
ALICE = LocalIdentity.generate(Random(1))
BOB = LocalIdentity.generate(Random(2))

ids = st.binary(min_size=20, max_size=20).map(NodeId)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
endpoints = st.builds(Endpoint.from_packed, addresses, st.integers(1, 65535))
contacts = st.builds(Contact.of, st.binary(min_size=32, max_size=32), endpoints)
records = st.binary(min_size=1, max_size=1000)
proofs = st.binary(min_size=1, max_size=MAX_PROOF_BYTES)
nonces = st.binary(min_size=12, max_size=12)
requests = st.one_of(
    st.just(Ping()),
    st.builds(FindNode, ids),
    st.builds(FindRecord, ids),
    st.builds(Store, records),
    st.builds(Leave, st.integers(0, 2**64 - 1)),
    st.builds(WantProbe, proofs, st.integers(1, 65535), nonces),
    st.builds(SendProbe, proofs, endpoints, nonces),
    st.builds(Meet, ids, st.binary(max_size=MAX_SEALED_BYTES)),
)
replies = st.one_of(
    st.just(Pong()),
    st.lists(contacts, max_size=40, unique_by=lambda c: c.node_id).map(
        lambda found: contacts_that_fit(found, 64)
    ),
    st.builds(Record, records),
    st.builds(Stored, st.booleans()),
    st.just(Left()),
    st.builds(ProbeState, st.sampled_from(ProbeProgress)),
    st.builds(Met, st.booleans(), st.binary(max_size=MAX_SEALED_BYTES)),
)


@pytest.mark.slow
@given(requests, replies, st.none() | ids, endpoints, st.sampled_from([b"", b"c" * 16]))
def test_every_message_survives_the_wire_within_1200_bytes(
    request, reply, responder, sent_to, cookie
):
    data = Envelopes(ALICE, NET).request(
        request, request_id=b"i" * 12, responder=responder, sent_to=sent_to, cookie=cookie
    )
    parsed = parse_datagram(data, network_tag(NET))
    assert parsed.verify(NET) == request
    answer = Envelopes(BOB, NET).reply(reply, parsed)
    assert parse_datagram(answer, network_tag(NET)).verify(NET, data) == reply
    assert max(len(data), len(answer)) <= MAX_DATAGRAM_BYTES


@pytest.mark.slow
@given(contacts)
def test_contact_round_trip(contact):
    assert Contact.decode(contact.encode()) == contact


class Steps:
    """The content of a table without limits: all nodes that were seen and not removed."""

    def __init__(self, own):
        settings = DhtSettings(k=3, bucket_prefix_limit=64, table_prefix_limit=1000)
        self.table = Table(own, settings, Random(1))
        self.seen = {}

    def do(self, action, contact):
        if action == "seen":
            self.table.seen(contact, 0.0)
            self.seen[contact.node_id] = contact
        elif action == "failed":
            self.table.failed(contact)
        else:
            self.table.remove(contact.node_id)
            self.seen.pop(contact.node_id, None)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    ids,
    st.lists(
        st.tuples(st.sampled_from(["seen", "seen", "seen", "failed", "remove"]), contacts),
        max_size=60,
    ),
    ids,
)
def test_table_keeps_its_shape_whatever_happens(own, steps, target):
    world = Steps(own)
    for action, contact in steps:
        world.do(action, contact)
    held = list(world.table)
    assert set(held) <= set(world.seen.values())
    nearest = world.table.closest(target, 5)
    assert nearest == sorted(held, key=lambda c: distance(c.node_id, target))[:5]
    lower = 0
    for bucket in world.table.buckets:
        assert bucket.range[0] == lower
        lower = bucket.range[1] + 1
        assert len(bucket.nodes) <= 3
        assert len(bucket.replacement_nodes) <= 3
        assert not set(bucket.nodes) & set(bucket.replacement_nodes)
        for entry in bucket.entries():
            assert bucket.has_in_range(entry)
    assert lower == 2**160
    assert all(world.table.get(c.node_id) == c for c in held)


@pytest.mark.slow
@given(st.lists(contacts, max_size=40), st.integers(0, 40))
def test_as_many_contacts_as_fit_and_no_more_than_asked(found, count):
    fitting = contacts_that_fit(found, count)
    assert isinstance(fitting, Contacts)
    assert fitting.contacts == tuple(found[: len(fitting.contacts)])
    assert len(fitting.contacts) <= count
    if len(found) >= 20 <= count:
        assert len(fitting.contacts) >= 20
