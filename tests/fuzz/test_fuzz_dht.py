"""Any bytes give a value or our PeerError, and never move the core to raise."""

import contextlib
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.envelope import Envelopes, network_tag, parse_datagram
from overlay.dht.messages import Contact, MessageKind, Ping, parse_reply, parse_request
from overlay.dht.settings import DhtSettings
from overlay.errors import PeerError
from overlay.identity import LocalIdentity
from overlay.wire import pack_canonical

NET = "fuzz-net"
TAG = network_tag(NET)
ALICE = LocalIdentity.generate(Random(1))
BOB = LocalIdentity.generate(Random(2))
HERE = Endpoint("80.1.2.3", 4500)
REQUEST = Envelopes(BOB, NET).request(
    Ping(), request_id=b"i" * 12, responder=ALICE.node_id, sent_to=HERE, cookie=b""
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=70)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=30,
)
kinds = st.sampled_from(MessageKind)
fields = st.builds(
    lambda kind, rest: [1, TAG, int(kind), b"i" * 12, *rest],
    kinds,
    st.lists(
        values
        | st.just(b"k" * 32)
        | st.just(b"s" * 64)
        | st.just(b"\1\2\3\4")
        | st.integers(0, 70_000),
        max_size=8,
    ),
)


def parsed_or_refused(parse, *args):
    with contextlib.suppress(PeerError):
        parse(*args)


@given(st.binary(max_size=1300))
@example(REQUEST)
@example(b"\x91" * 1200)
def test_any_bytes_are_a_datagram_or_a_peer_error(data):
    parsed_or_refused(parse_datagram, data, TAG)


@pytest.mark.slow
@settings(max_examples=60)
@given(values | fields)
def test_any_value_is_a_datagram_or_a_peer_error(value):
    data = pack_canonical(value)
    try:
        message = parse_datagram(data, TAG)
    except PeerError:
        return
    if hasattr(message, "request"):
        parsed_or_refused(message.verify, NET)
    elif hasattr(message, "verify"):
        parsed_or_refused(message.verify, NET, REQUEST)


@pytest.mark.slow
@settings(max_examples=60)
@given(kinds, st.lists(values, max_size=4))
def test_any_body_is_a_message_or_a_peer_error(kind, body):
    parsed_or_refused(parse_request, kind, body)
    parsed_or_refused(parse_reply, kind, body)


@pytest.mark.slow
@given(values | st.binary(min_size=38, max_size=38) | st.binary(min_size=50, max_size=50))
def test_any_value_is_a_contact_or_a_peer_error(value):
    parsed_or_refused(Contact.decode, value)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=300)
            | fields.map(pack_canonical)
            | st.builds(
                lambda position, bit: bytes(
                    byte ^ (1 << bit) * (index == position) for index, byte in enumerate(REQUEST)
                ),
                st.integers(0, len(REQUEST) - 1),
                st.integers(0, 7),
            ),
            st.sampled_from([HERE, Endpoint("0.0.0.0", 0), Endpoint("junk", -1)]),
        ),
        max_size=8,
    )
)
def test_core_never_raises(batch):
    dht = Dht(ALICE, network_id=NET, settings=DhtSettings(), rng=Random(3))
    dht.receive(batch, 1000.0)
    dht.handle_deadline(1000.0)
    assert dht.next_deadline() > 1000.0
    assert dht.contact_count == 0
