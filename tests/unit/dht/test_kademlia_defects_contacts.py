"""Known defects of kademlia 2.2.3 in its routing table; see ``kademlia_and_ours.py``."""

import asyncio
import ipaddress
from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
from dht_network import (
    NETWORK_ID,
    Sent,
    into,
    make_identity,
    public_endpoint,
)
from kademlia.crawling import RPCFindResponse
from kademlia.node import Node
from kademlia.routing import RoutingTable
from kademlia.utils import digest
from kademlia_and_ours import NOW, TAG, OurNode, OurPeer, in_loop, our_table, parent

from overlay.addresses import NodeId
from overlay.dht.calls import Calls
from overlay.dht.envelope import (
    Envelopes,
    UnverifiedRequest,
    parse_datagram,
)
from overlay.dht.events import DhtCount
from overlay.dht.messages import (
    Contact,
    MessageKind,
    Ping,
    Pong,
)
from overlay.dht.routing import Entry
from overlay.dht.settings import DhtSettings
from overlay.errors import Malformed

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


def test_k12_parent_lets_one_host_fill_the_table():
    def act(loop):
        protocol = parent()
        for number in range(35):
            claimed = Node(digest(number), "6.6.6.6", 6)
            protocol.handle_call_response((True, []), claimed)
        return sum(len(bucket) for bucket in protocol.router.buckets)

    assert in_loop(act) == 35


def test_k12_ours_credits_no_node_with_an_id_that_is_not_proven():
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


def test_k15_ours_moves_it_to_the_tail_with_its_new_address():
    table = our_table()
    contacts = [Contact(NodeId(bytes([n]) * 20), public_endpoint(n), b"k" * 32) for n in (1, 2, 3)]
    for contact in contacts:
        table.seen(contact, NOW)
    table.seen(Contact(contacts[0].node_id, public_endpoint(9), b"k" * 32), NOW)
    nodes = table.buckets[0].get_nodes()
    assert [node.id[0] for node in nodes] == [2, 3, 1]
    assert nodes[-1].contact.endpoint == public_endpoint(9)


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
