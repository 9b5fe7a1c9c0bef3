"""Known defects of kademlia 2.2.3 in what it stores; see ``kademlia_and_ours.py``."""

import ast
import asyncio
import pickle
from pathlib import Path
from random import Random
from types import SimpleNamespace

import kademlia.storage
import pytest
from dht_network import (
    NETWORK_ID,
    grown,
    make_descriptor,
    make_identity,
    public_endpoint,
)
from kademlia.crawling import ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.storage import ForgetfulStorage
from kademlia.utils import digest
from kademlia_and_ours import NOW, TAG, OurNode, OurPeer, in_loop, parent

import overlay.dht
from overlay.addresses import NodeId
from overlay.dht.crawl import Crawl
from overlay.dht.envelope import (
    UnverifiedRequest,
    parse_datagram,
)
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import (
    Contacts,
    FindRecord,
    Ping,
    Record,
    Store,
)
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordCheck, RecordStore, verified_record


def requests_among(datagrams):
    parsed = [parse_datagram(data, TAG) for data, _ in datagrams]
    return [message.request for message in parsed if isinstance(message, UnverifiedRequest)]


def hand_over_case():
    """Own id, a filed peer, a late peer and a key whose digest makes the late one due."""
    rng = Random(1)
    own, filed, late = (bytes([first]) + rng.randbytes(19) for first in (0x00, 0xF0, 0x80))
    while True:
        key = rng.randbytes(20)
        place = int.from_bytes(digest(key))
        gaps = [place ^ int.from_bytes(one) for one in (own, filed, late)]
        if gaps[0] < gaps[1] and gaps[2] < gaps[1]:
            return own, filed, late, key


def test_k2_parent_hands_over_again_with_every_answer_of_a_peer_in_the_cache():
    own, filed, late, key = hand_over_case()

    def act(loop):
        protocol = parent(own, k=1)
        protocol.storage[key] = b"value"
        protocol.router.split_bucket(0)
        protocol.router.add_contact(Node(filed, "1.1.1.1", 1))
        for _ in range(3):
            protocol.handle_call_response((True, None), Node(late, "2.2.2.2", 2))
        return protocol

    protocol = in_loop(act)
    assert protocol.router.is_new_node(Node(late))
    assert len(protocol.transport.calls("store")) == 3


def test_k2_ours_stores_nothing_because_a_peer_was_heard():
    node = OurNode(k=1, alpha=3)
    peers = [OurPeer(number) for number in range(2, 8)]
    owner = peers[0]
    owner.ask(node, Store(make_descriptor(owner.identity, owner.endpoint).encoded))
    assert DhtInspection(node.dht).record_count == 1
    sent = [datagram for _ in range(3) for peer in peers[1:] for datagram in peer.ask(node, Ping())]
    assert len(sent) >= 15
    assert not [request for request in requests_among(sent) if isinstance(request, Store)]


def hands_over(protocol_key, own, filed, newcomer):
    def gap(one):
        return int.from_bytes(one) ^ int.from_bytes(protocol_key)

    return gap(newcomer) < gap(filed) and gap(own) < gap(filed)


def test_k3_parent_hashes_the_key_again_and_misses_most_hand_overs():
    rng = Random(2)
    due = done = 0

    async def call_store(node, key, value):
        nonlocal done
        done += 1

    async def run(loop):
        nonlocal due
        while due < 100:
            own, filed, newcomer, key = (rng.randbytes(20) for _ in range(4))
            if not hands_over(key, own, filed, newcomer):
                continue
            due += 1
            protocol = parent(own)
            protocol.call_store = call_store
            protocol.router.add_contact(Node(filed, "1.1.1.1", 1))
            protocol.storage[key] = b"value"
            protocol.welcome_if_new(Node(newcomer, "2.2.2.2", 2))
            await asyncio.sleep(0)

    in_loop(run)
    assert done < 0.7 * due


@pytest.mark.slow
def test_k3_ours_stores_at_the_k_nearest_of_the_key_itself():
    settings = DhtSettings(k=3, alpha=3, crawl_first_interval_s=30.0)
    network, members = grown(9, settings=settings, run=5)
    network.record_traffic = True
    owner = members[4]
    fresh = make_descriptor(owner.identity, owner.endpoint, sequence=2)
    network.do(owner, lambda dht: dht.publish(fresh, network.now))
    network.run(3)
    stored_at = {
        network.host_at(destination).node_id
        for _, data, source, destination in network.traffic
        if source == owner.endpoint and requests_among([(data, None)])[:1] == [Store(fresh.encoded)]
    }
    others = [member.node_id for member in members if member is not owner]
    assert stored_at == set(sorted(others, key=lambda i: distance(i, owner.node_id))[:3])


def test_k9_parent_returns_a_forged_value_and_restores_it():
    async def run(loop):
        protocol = parent()
        stored = []

        async def call_store(node, key, value):
            stored.append((node.id, value))

        answers = {b"m" * 20: (True, {"value": "forged"}), b"h" * 20: (True, [])}

        async def call_find_value(peer, node):
            return answers[peer.id]

        protocol.call_store, protocol.call_find_value = call_store, call_find_value
        peers = [Node(b"m" * 20, "1.1.1.1", 1), Node(b"h" * 20, "2.2.2.2", 2)]
        spider = ValueSpiderCrawl(protocol, Node(b"t" * 20), peers, 20, 3)
        return await spider.find(), stored

    value, stored = in_loop(run)
    assert value == "forged"
    assert stored == [(b"h" * 20, "forged")]


def test_k9_ours_goes_on_until_a_record_verifies_and_stores_none():
    owner, liar, honest = OurPeer(2), OurPeer(3), OurPeer(4)
    genuine = make_descriptor(owner.identity, owner.endpoint)
    forged = make_descriptor(liar.identity, liar.endpoint)
    found = []
    crawl = Crawl(
        NodeId(bytes(20)),
        [owner.contact, liar.contact, honest.contact],
        DhtSettings(),
        verify=RecordCheck(verified_record, NETWORK_ID, cost_bits=0),
        rng=Random(1),
        now=NOW,
    )
    while not crawl.finished(NOW):
        for query in crawl.queries(NOW):
            if query.contact == owner.contact:
                crawl.failed(query)
            elif query.contact == liar.contact and isinstance(query.request, FindRecord):
                found += crawl.answered(query, Record(forged.encoded), NOW)
            elif query.request == FindRecord(owner.contact.node_id):
                found += crawl.answered(query, Record(genuine.encoded), NOW)
            else:
                crawl.answered(query, Contacts(()), NOW)
            assert not isinstance(query.request, Store)
    assert genuine in [each.descriptor for each in found]
    assert {each.descriptor.node_id for each in found} == {genuine.node_id, forged.node_id}


def test_k10_parent_stores_everything_that_an_unknown_node_sends():
    def act(loop):
        protocol = parent()
        protocol.rpc_store(("6.6.6.6", 6), b"m" * 20, b"k" * 20, b"x" * 1_000_000)
        return protocol.storage.get(b"k" * 20)

    assert in_loop(act) == b"x" * 1_000_000


def test_k10_ours_stores_only_the_senders_own_verified_descriptor():
    node, peer = OurNode(), OurPeer(2)
    for record in (b"x" * 1000, make_descriptor(make_identity(3), public_endpoint(3)).encoded):
        peer.ask(node, Store(record))
    node.feed(peer.request(node, Store(make_descriptor(peer.identity, peer.endpoint).encoded)),
              peer.endpoint)  # fmt: skip
    assert DhtInspection(node.dht).record_count == 0
    peer.ask(node, Store(make_descriptor(peer.identity, peer.endpoint).encoded))
    assert DhtInspection(node.dht).record_count == 1


def test_k11_parent_republished_value_outlives_its_ttl(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr(kademlia.storage, "time", clock)
    storage = ForgetfulStorage(ttl=100)
    for clock.now in (0.0, 90.0, 180.0, 270.0):
        storage[b"key"] = b"value"
    assert storage.get(b"key") == b"value"


def test_k11_ours_drops_at_the_signed_expiry():
    store = RecordStore(NodeId(bytes(20)), NETWORK_ID, DhtSettings())
    peer = OurPeer(2)
    one = make_descriptor(peer.identity, peer.endpoint, lifetime=100)
    for now in (NOW, NOW + 50, NOW + 99):
        store.put(one.node_id, one.encoded, b"s", now, responsible=True)
    assert store.get(one.node_id, NOW + 100) is None


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Bomb.target,))


def test_k28_parent_runs_the_code_in_its_state_file(tmp_path):
    Bomb.target = tmp_path / "executed"
    state = tmp_path / "state"
    state.write_bytes(pickle.dumps(Bomb()))

    async def run(loop):
        with pytest.raises(TypeError):  # what comes out is no state; too late
            await Server.load_state(str(state), 0)

    in_loop(run)
    assert Bomb.target.exists()


def test_k28_ours_pickles_nothing():
    sources = sorted(Path(overlay.dht.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    imported = {
        name
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
        )
    }
    assert "msgpack" not in imported  # only overlay.wire decodes
    assert not imported & {"pickle", "marshal", "shelve", "asyncio", "time", "socket"}
