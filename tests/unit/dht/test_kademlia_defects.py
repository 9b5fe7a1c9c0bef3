"""Known defects of kademlia 2.2.3 and rpcudp 5.0.1, each shown on the package and absent here.

Every row has two halves. The ``parent`` half runs the unmodified classes with a fake
transport and asserts the bad behaviour, so that a later version which mends it fails here
and tells us to look; the ``ours`` half holds our classes to the good one. Eleven rows that
show in a running node are in ``test_kademlia_defects_running.py``.
"""

import ast
import asyncio
import gc
import ipaddress
import pickle
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import kademlia.storage
import pytest
import umsgpack
from dht_network import (
    NETWORK_ID,
    START,
    Sent,
    grown,
    into,
    make_descriptor,
    make_identity,
    public_endpoint,
)
from kademlia.crawling import NodeSpiderCrawl, RPCFindResponse, ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node, NodeHeap
from kademlia.protocol import KademliaProtocol
from kademlia.routing import RoutingTable
from kademlia.storage import ForgetfulStorage
from kademlia.utils import digest

import overlay.dht
from overlay.addresses import NodeId
from overlay.dht.calls import Calls
from overlay.dht.core import Dht
from overlay.dht.crawl import Crawl
from overlay.dht.envelope import (
    Challenge,
    Envelopes,
    UnverifiedReply,
    UnverifiedRequest,
    network_tag,
    parse_datagram,
)
from overlay.dht.events import DhtCount
from overlay.dht.lookup import Lookup
from overlay.dht.messages import (
    Contact,
    Contacts,
    FindNode,
    FindRecord,
    MessageKind,
    Ping,
    Pong,
    Record,
    Store,
    parse_reply,
)
from overlay.dht.routing import Entry, Table, distance
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordCheck, RecordStore, verified_record
from overlay.errors import Malformed

NOW = START
TAG = network_tag(NETWORK_ID)


# -- the package, with a fake transport


class FakeTransport:
    def __init__(self):
        self.sent = []

    def sendto(self, data, address):
        self.sent.append((data, address))

    def calls(self, name):
        requests = [umsgpack.unpackb(data[21:]) for data, _ in self.sent if data[:1] == b"\0"]
        return [request for request in requests if request[0] == name]


def parent(own=bytes(20), k=20, storage=None):
    protocol = KademliaProtocol(Node(own), storage or ForgetfulStorage(), k)
    protocol.transport = FakeTransport()
    return protocol


def in_loop(action):
    """Run ``action(loop)`` in a fresh loop; afterwards cancel what it left behind."""

    async def run():
        loop = asyncio.get_running_loop()
        result = action(loop)
        if asyncio.iscoroutine(result):
            result = await result
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return result

    return asyncio.run(run())


# -- ours, with a hand-driven peer


class OurNode:
    """One Dht and the datagrams it wants to send."""

    def __init__(self, *, own=1, seed=None, publish=True, **settings):
        self.identity = make_identity(own)
        self.endpoint = public_endpoint(own)
        self.dht = Dht(
            self.identity,
            network_id=NETWORK_ID,
            settings=DhtSettings(**settings),
            rng=Random(own if seed is None else seed),
        )
        if publish:
            self.dht.publish(make_descriptor(self.identity, self.endpoint), NOW)

    def feed(self, data, source):
        self.dht.receive([(data, source)], NOW)
        return self.dht.datagrams_to_send(NOW)


class OurPeer:
    """A peer with a key, who asks and answers as the test tells it."""

    def __init__(self, number):
        self.identity = make_identity(number)
        self.endpoint = public_endpoint(number)
        self.envelopes = Envelopes(self.identity, NETWORK_ID)
        self.contact = Contact.of(self.identity.identity_key, self.endpoint)

    def request(self, node, request, cookie=b""):
        return self.envelopes.request(
            request,
            request_id=b"r" * 12,
            responder=node.identity.node_id,
            sent_to=node.endpoint,
            cookie=cookie,
        )

    def cookie(self, node):
        ((data, _),) = node.feed(self.request(node, Ping()), self.endpoint)
        challenge = parse_datagram(data, TAG)
        assert isinstance(challenge, Challenge)
        return challenge.cookie

    def ask(self, node, request):
        """Ask with a valid cookie; return everything the node sends because of it."""
        return node.feed(self.request(node, request, self.cookie(node)), self.endpoint)


def requests_among(datagrams):
    parsed = [parse_datagram(data, TAG) for data, _ in datagrams]
    return [message.request for message in parsed if isinstance(message, UnverifiedRequest)]


# -- K1: contact addresses are never validated

BAD_ADDRESSES = [("1.2.3.4", 70000), ("1.2.3.4", -1), (None, None), (5, 5), ("host.example", 53)]


def is_sendable(host, port):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return isinstance(host, str) and type(port) is int and 1 <= port <= 65535


@pytest.mark.parametrize(("host", "port"), BAD_ADDRESSES)
def test_k1_parent_sends_to_addresses_that_close_its_transport(host, port):
    async def run(loop):
        protocol = parent()
        (node,) = RPCFindResponse((True, [[b"n" * 20, host, port]])).get_node_list()
        task = loop.create_task(protocol.call_find_node(node, Node(b"t" * 20)))
        await asyncio.sleep(0)
        task.cancel()
        return protocol.transport.sent

    sent = in_loop(run)
    assert sent
    assert not all(is_sendable(*address) for _, address in sent)


@pytest.mark.parametrize("packed", [b"\1\2\3\4\0\0" + b"k" * 32, b"host.example:53", None, 5])
def test_k1_ours_drops_such_contacts_and_cannot_even_express_the_others(packed):
    node, liar = OurNode(), OurPeer(2)
    sent = liar.ask(node, Ping())
    raw = SimpleNamespace(kind=MessageKind.CONTACTS, body=lambda: [[packed]])
    for data, destination in sent:
        message = parse_datagram(data, TAG)
        if isinstance(message, UnverifiedRequest):
            assert destination == liar.endpoint
            sent = node.feed(liar.envelopes.reply(raw, message), liar.endpoint)
    assert node.dht.counters()[DhtCount.REFUSED_CONTACT] >= 1
    assert all(is_sendable(*destination) for _, destination in sent)


# -- K2, K3: storage is handed over for ever, and to the wrong node


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
    assert node.dht.record_count == 1
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
        network.members[destination].node_id
        for _, data, source, destination in network.traffic
        if source == owner.endpoint and requests_among([(data, None)])[:1] == [Store(fresh.encoded)]
    }
    others = [member.node_id for member in members if member is not owner]
    assert stored_at == set(sorted(others, key=lambda i: distance(i, owner.node_id))[:3])


# -- K4: the dead come back


def test_k4_parent_returns_a_peer_that_was_removed_after_its_timeout():
    heap = NodeHeap(Node(bytes(20)), 20)
    dead = Node(b"d" * 20, "1.1.1.1", 1)
    heap.push(dead)
    heap.mark_contacted(dead)
    heap.remove([dead.id])
    heap.push([Node(b"d" * 20, "1.1.1.1", 1)])  # a neighbour mentions it
    assert [node.id for node in heap] == [dead.id]
    assert heap.have_contacted_all()


def test_k4_ours_never_returns_nor_asks_it_again():
    dead, alive = OurPeer(2).contact, OurPeer(3).contact
    lookup = Lookup(NodeId(bytes(20)), NodeId(b"o" * 20), [dead, alive], DhtSettings(), NOW)
    queries = {query.contact: query for query in lookup.queries(NOW)}
    lookup.failed(queries[dead])
    lookup.answered(queries[alive], Contacts((dead,)), NOW)
    assert lookup.finished(NOW)
    assert lookup.closest() == [alive]


# -- K6: malformed answers crash the caller's lookup

MALFORMED_ANSWERS = [[[1, 2, 3]], 5, {"no": "value"}, {"value": []}, [[b"i" * 20, "h", 1, 4]]]


@pytest.mark.parametrize("answer", MALFORMED_ANSWERS)
def test_k6_parent_look_up_raises_on_one_bad_answer(answer):
    async def run(loop):
        protocol = parent()

        async def call_find_value(peer, node):
            return True, answer

        protocol.call_find_value = call_find_value
        spider = ValueSpiderCrawl(protocol, Node(b"t" * 20), [Node(b"p" * 20, "h", 1)], 20, 3)
        with pytest.raises((AttributeError, TypeError, KeyError)):
            await spider.find()

    in_loop(run)


@pytest.mark.parametrize("answer", MALFORMED_ANSWERS)
def test_k6_ours_yields_a_value_or_malformed(answer):
    for body in ([answer], answer):
        try:
            reply = parse_reply(MessageKind.CONTACTS, body)
        except Malformed:
            continue
        assert reply.contacts == ()
        peer = OurPeer(2).contact
        lookup = Lookup(NodeId(bytes(20)), NodeId(b"o" * 20), [peer], DhtSettings(), NOW)
        lookup.answered(lookup.queries(NOW)[0], reply, NOW)
        assert lookup.closest() == [peer]


# -- K7: no bound on rounds


def ever_closer(node_id, target):
    gap = (int.from_bytes(node_id) ^ int.from_bytes(target)) * 99 // 100
    return (gap ^ int.from_bytes(target)).to_bytes(20, "big")


def test_k7_parent_recurses_until_the_interpreter_stops_it():
    rounds = 0
    target = bytes(20)

    async def find(peer, _):
        nonlocal rounds
        rounds += 1
        return True, [(ever_closer(peer.id, target), "1.1.1.1", 1)]

    async def run(loop):
        protocol = SimpleNamespace(call_find_node=find)
        spider = NodeSpiderCrawl(protocol, Node(target), [Node(b"\xff" * 20, "1.1.1.1", 1)], 20, 3)
        with pytest.raises(RecursionError):
            await spider.find()

    in_loop(run)
    assert rounds > 100


def test_k7_ours_stops_at_its_hop_budget():
    target = NodeId(bytes(20))
    start = Contact(NodeId(b"\xff" * 20), public_endpoint(1), b"k" * 32)
    lookup = Lookup(target, NodeId(b"o" * 20), [start], DhtSettings(), NOW)
    rounds = 0
    while not lookup.finished(NOW):
        for query in lookup.queries(NOW):
            rounds += 1
            closer = NodeId(ever_closer(query.contact.node_id, target))
            lookup.answered(
                query, Contacts((Contact(closer, public_endpoint(rounds + 1), b"k" * 32),)), NOW
            )
    assert rounds == DhtSettings().lookup_max_hops + 1


# -- K9: the first value wins, and is stored again


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


# -- K10: anyone stores anything


def test_k10_parent_stores_whatever_a_stranger_sends():
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
    assert node.dht.record_count == 0
    peer.ask(node, Store(make_descriptor(peer.identity, peer.endpoint).encoded))
    assert node.dht.record_count == 1


# -- K11: republishing defeats expiry


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


# -- K12: whoever answers is credited with any id


def test_k12_parent_lets_one_host_fill_the_table():
    def act(loop):
        protocol = parent()
        for number in range(35):
            claimed = Node(digest(number), "6.6.6.6", 6)
            protocol.handle_call_response((True, []), claimed)
        return sum(len(bucket) for bucket in protocol.router.buckets)

    assert in_loop(act) == 35


def test_k12_ours_credits_nobody_with_an_id_that_is_not_proven():
    host = OurPeer(2)
    answers, sent, counts = [], Sent(), Counter()
    calls = Calls(
        Envelopes(make_identity(1), NETWORK_ID),
        DhtSettings(),
        Random(1),
        sent,
        counts,
    )
    for number in range(35):
        claimed = NodeId(digest(number))
        calls.start(Ping(), host.endpoint, claimed, NOW, into(answers))
        reply = host.envelopes.reply(Pong(), parse_datagram(sent[-1][0], TAG))
        calls.replied(parse_datagram(reply, TAG), host.endpoint, NOW)
    assert answers == []
    assert counts[DhtCount.UNSOLICITED] == 35


# -- K13: one spoofed packet enters the table


def test_k13_parent_files_a_source_that_proved_nothing():
    protocol = in_loop(lambda loop: _pinged(parent()))
    assert not protocol.router.is_new_node(Node(b"s" * 20))


def _pinged(protocol):
    protocol.rpc_ping(("7.7.7.7", 7), b"s" * 20)
    return protocol


def test_k13_ours_files_a_source_only_after_its_cookie_and_signature():
    node, peer = OurNode(), OurPeer(2)
    node.feed(peer.request(node, Ping()), peer.endpoint)
    forged = bytearray(peer.request(node, Ping(), peer.cookie(node)))
    forged[-1] ^= 1
    node.feed(bytes(forged), peer.endpoint)
    assert node.dht.contact_count == 0
    peer.ask(node, Ping())
    assert node.dht.contact_count == 1


# -- K14: amplification


def datagram(name, *args):
    return b"\0" + b"m" * 20 + umsgpack.packb([name, args])


def test_k14_parent_answers_a_spoofed_packet_with_a_hundred_times_its_bytes():
    request = datagram("find_value", b"s" * 20, b"k" * 20)

    async def run(loop):
        protocol = parent()
        protocol.storage[b"k" * 20] = b"x" * 8000
        protocol.datagram_received(request, ("7.7.7.7", 7))
        for _ in range(4):
            await asyncio.sleep(0)
        return sum(len(data) for data, to in protocol.transport.sent if to == ("7.7.7.7", 7))

    assert in_loop(run) > 100 * len(request)


@pytest.mark.parametrize("request_", [Ping(), FindNode(b"t" * 20), FindRecord(b"t" * 20)])
def test_k14_ours_answers_the_unproven_with_fewer_bytes(request_):
    node, peer = OurNode(), OurPeer(2)
    own = FindRecord(node.identity.node_id)
    for question in (request_, own):
        data = peer.request(node, question)
        sent = node.feed(data, peer.endpoint)
        assert 0 < sum(len(answer) for answer, _ in sent) < len(data)


# -- K15: least recently seen is really oldest inserted


def test_k15_parent_neither_moves_nor_readdresses_a_known_contact():
    def act(loop):
        protocol = parent()
        for number in (1, 2, 3):
            protocol.welcome_if_new(Node(bytes([number]) * 20, "1.1.1.1", number))
        protocol.welcome_if_new(Node(b"\1" * 20, "9.9.9.9", 9))
        return protocol.router.buckets[0].get_nodes()

    nodes = in_loop(act)
    assert [node.id[0] for node in nodes] == [1, 2, 3]
    assert nodes[0].ip == "1.1.1.1"


def our_table(k=20):
    return Table(NodeId(bytes(20)), DhtSettings(k=k), Random(1))


def test_k15_ours_moves_it_to_the_tail_with_its_new_address():
    table = our_table()
    contacts = [Contact(NodeId(bytes([n]) * 20), public_endpoint(n), b"k" * 32) for n in (1, 2, 3)]
    for contact in contacts:
        table.seen(contact, NOW)
    table.seen(Contact(contacts[0].node_id, public_endpoint(9), b"k" * 32), NOW)
    nodes = table.buckets[0].get_nodes()
    assert [node.id[0] for node in nodes] == [2, 3, 1]
    assert nodes[-1].contact.endpoint == public_endpoint(9)


# -- K16: not the k closest


def share_of_exact_answers(make_table, make_node):
    rng = Random(4)
    exact = 0
    for _ in range(20):
        table = make_table()
        for _ in range(100):
            table.add_contact(make_node(rng.randbytes(20)))
        known = [node for bucket in table.buckets for node in bucket.get_nodes()]
        target = Node(rng.randbytes(20))
        oracle = sorted(known, key=target.distance_to)[:20]
        exact += [n.id for n in table.find_neighbors(target)] == [n.id for n in oracle]
    return exact / 20


def test_k16_parent_seldom_finds_the_true_k_closest():
    def act(loop):
        protocol = parent(b"o" * 20)
        return share_of_exact_answers(
            lambda: RoutingTable(protocol, 20, Node(b"o" * 20)),
            lambda node_id: Node(node_id, "1.1.1.1", 1),
        )

    async def run(loop):
        return act(loop)

    assert in_loop(run) < 0.5


def test_k16_ours_always_finds_them():
    def make_node(node_id):
        contact = Contact(NodeId(node_id), public_endpoint(1), b"k" * 32)
        return Entry(contact, b"group", NOW)

    assert share_of_exact_answers(our_table, make_node) == 1.0


# -- K17: the midpoint id is filed in one bucket and searched in the other


def is_found_again(table, node):
    table.add_contact(node)
    table.split_bucket(0)
    return not table.is_new_node(node)


def test_k17_parent_loses_the_id_at_the_midpoint():
    protocol = parent()
    midpoint = Node((2**159).to_bytes(20, "big"), "1.1.1.1", 1)
    assert not is_found_again(protocol.router, midpoint)
    other = Node((2**159 + 1).to_bytes(20, "big"), "1.1.1.1", 1)
    assert is_found_again(parent().router, other)


@pytest.mark.parametrize("number", [0, 1, 2**159 - 1, 2**159, 2**159 + 1, 2**160 - 1])
def test_k17_ours_finds_every_id_where_it_filed_it(number):
    table = our_table()
    contact = Contact(NodeId(number.to_bytes(20, "big")), public_endpoint(1), b"k" * 32)
    assert is_found_again(table, Entry(contact, b"group", NOW))
    table.remove(contact.node_id)
    assert len(table) == 0


def test_k17_ours_refuses_ids_of_another_length():
    with pytest.raises(Malformed):
        Contact.decode(b"\1\2\3\4\0\1" + b"k" * 33)
    assert len(OurPeer(2).contact.node_id) == 20


# -- K19: exceptions vanish in tasks that nobody holds

JUNK = [
    b"\0" * 21 + b"\xc1",
    b"\0" + b"m" * 20 + umsgpack.packb(["ping"]),
    b"\0" + b"m" * 20 + umsgpack.packb(["ping", [1, 2, 3]]),
    b"\0" + b"m" * 20 + b"\x91" * 900,
    b"\0" + b"m" * 20 + umsgpack.packb(["find_node", [b"x", b"y"]]),
]


@pytest.mark.slow
def test_k19_parent_raises_into_the_void():
    lost = []

    async def run(loop):
        loop.set_exception_handler(lambda _, context: lost.append(context))
        protocol = parent()
        for junk in [*JUNK, b"\0" * 21 + b"\x91" * 3000]:
            protocol.datagram_received(junk, ("7.7.7.7", 7))
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()

    in_loop(run)
    gc.collect()
    assert len(lost) >= 4


def test_k19_ours_counts_each_one():
    node = OurNode()
    for junk in [*JUNK, b"\x91" * 1200, b"", b"\0" * 1200]:
        assert node.feed(junk, public_endpoint(2)) == []
    assert node.dht.counters()[DhtCount.MALFORMED] == len(JUNK) + 3


# -- K20: replies are matched by id alone, and cancelled calls leak


def reply_to(message_id, value):
    return b"\x01" + message_id + umsgpack.packb(value)


def test_k20_parent_accepts_a_reply_from_anywhere():
    async def run(loop):
        protocol = parent()
        future = protocol.ping(("1.1.1.1", 1), b"s" * 20)
        message_id = protocol.transport.sent[0][0][1:21]
        protocol.datagram_received(reply_to(message_id, b"forged"), ("6.6.6.6", 6))
        return await future

    assert in_loop(run) == (True, b"forged")


def test_k20_parent_leaks_and_raises_after_the_caller_cancelled():
    async def run(loop):
        protocol = parent()
        future = protocol.ping(("1.1.1.1", 1), b"s" * 20)
        message_id = protocol.transport.sent[0][0][1:21]
        future.cancel()
        raised = []
        for _ in range(2):  # the second time too, because the call is still in the table
            protocol.datagram_received(reply_to(message_id, b"late"), ("1.1.1.1", 1))
            (task,) = asyncio.all_tasks() - {asyncio.current_task()}
            raised += await asyncio.gather(task, return_exceptions=True)
        return [type(each) for each in raised]

    assert in_loop(run) == [asyncio.InvalidStateError] * 2


def test_k20_ours_compares_the_address_and_forgets_what_ended():
    host, counts, sent, answers = OurPeer(2), Counter(), Sent(), []
    calls = Calls(
        Envelopes(make_identity(1), NETWORK_ID),
        DhtSettings(),
        Random(1),
        sent,
        counts,
    )
    calls.start(
        Ping(), host.endpoint, host.identity.node_id, NOW, lambda answer, _: answers.append(answer)
    )
    reply = parse_datagram(host.envelopes.reply(Pong(), parse_datagram(sent[0][0], TAG)), TAG)
    assert isinstance(reply, UnverifiedReply)
    calls.replied(reply, public_endpoint(66), NOW)
    assert answers == []
    calls.cancel_all()
    calls.replied(reply, host.endpoint, NOW)
    assert answers == []
    assert len(calls) == 0
    assert calls.next_deadline() == float("inf")


# -- K21: sizes


def test_k21_parent_sends_replies_of_any_size():
    async def run(loop):
        protocol = parent()
        protocol.storage[b"k" * 20] = b"x" * 60_000
        protocol.datagram_received(datagram("find_value", b"s" * 20, b"k" * 20), ("7.7.7.7", 7))
        for _ in range(4):
            await asyncio.sleep(0)
        return max(len(data) for data, _ in protocol.transport.sent)

    assert in_loop(run) > 60_000


def test_k21_ours_stays_below_its_ceiling_both_ways():
    node = OurNode()
    for number in range(2, 60):
        OurPeer(number).ask(node, Ping())
    asker = OurPeer(100)
    (reply, _), *_ = asker.ask(node, FindNode(NodeId(bytes(20))))
    contacts = parse_datagram(reply, TAG)
    assert isinstance(contacts, UnverifiedReply)
    assert 900 < len(reply) <= 1200
    with pytest.raises(Malformed):
        parse_datagram(b"\xc5\xff\xff" + b"x" * 0xFFFF, TAG)
    with pytest.raises(ValueError, match="cannot be published"):
        make_descriptor(make_identity(1), public_endpoint(1), network_id="n" * 1000)


# -- K28: state in pickles


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
