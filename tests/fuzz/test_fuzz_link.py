"""Any bytes on the port: a value, a PeerError or a counter, and never anything else."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from targets import TARGETS

from overlay.addresses import Endpoint
from overlay.demultiplexer import Channel, demultiplex, frame
from overlay.identity import LocalIdentity
from overlay.link.cookie import ReceiverKeys, with_macs
from overlay.link.events import LinkPeer
from overlay.link.exchange import Credentials
from overlay.link.handshake import GEOMETRY
from overlay.link.links import Links
from overlay.link.settings import LinkSettings

NOW = 1_800_000_000.0
HERE, THERE = Endpoint("8.8.8.8", 4500), Endpoint("9.9.9.9", 4500)
SIZES = [
    GEOMETRY.initiation,
    GEOMETRY.response,
    GEOMETRY.cookie_reply,
    GEOMETRY.notice,
]
IDENTITY = LocalIdentity.generate(Random(1))
PEER = LocalIdentity.generate(Random(2))
KEYS = ReceiverKeys.of(IDENTITY.link_key, Credentials.of(IDENTITY, "lab", (3,)).network_hash)


def of_our_sizes() -> st.SearchStrategy[bytes]:
    header = st.tuples(st.integers(0, 9), st.integers(0, 2)).map(bytes)
    body = st.sampled_from(SIZES).flatmap(lambda n: st.binary(min_size=n - 2, max_size=n - 2))
    return st.builds(bytes.__add__, header, body)


ANY = st.one_of(st.binary(max_size=300), of_our_sizes())


@given(ANY)
def test_any_bytes_parse_to_a_message_or_a_peer_error(data):
    TARGETS["link_message"](data)


@pytest.mark.slow
@given(st.lists(ANY, max_size=5))
@example([b"", bytes(4), b"\xff", frame(Channel.LINK, b"x"), bytes(5)])
def test_every_datagram_goes_to_exactly_one_place(datagrams):
    result = demultiplex([(data, HERE) for data in datagrams])
    places = (len(result.esp), len(result.dht), len(result.link))
    assert sum(places) + result.keepalives + result.malformed == len(datagrams)
    framed = demultiplex([(frame(Channel.LINK, data), HERE) for data in datagrams if data])
    assert [data for data, _ in framed.link] == [data for data in datagrams if data]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(ANY, max_size=10), st.booleans(), st.binary(max_size=214, min_size=214))
def test_receive_raises_nothing_and_opens_nothing(datagrams, connecting, noise):
    spis = count(1000)
    links = Links(IDENTITY, "lab", LinkSettings(), Random(3), lambda: next(spis), lambda spi: None)
    if connecting:
        links.connect(LinkPeer(PEER.overlay_address, PEER.link_key, THERE), NOW)
        [(own, _)] = links.datagrams_to_send(NOW)
        datagrams = [*datagrams, own, b"\x02\x01" + own[2:6] + noise[:149]]
    with_mac1 = with_macs(b"\x01\x01" + noise[2:], KEYS, None)
    links.receive([(data, THERE) for data in [*datagrams, with_mac1]], NOW)
    assert links.events() == []
    assert links.datagrams_to_send(NOW) == []
    assert sum(links.drops().values()) == len(datagrams) + 1
    assert len(links) == connecting


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.integers(-1, 70000), of_our_sizes())
def test_a_strange_source_is_no_error(host, port, data):
    links = Links(IDENTITY, "lab", LinkSettings(), Random(3), lambda: 1000, lambda spi: None)
    links.receive([(data, Endpoint(host, port))], NOW)
    assert sum(links.drops().values()) == 1
