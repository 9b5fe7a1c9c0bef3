"""Known defects of kademlia 2.2.3 in its lookups; see ``kademlia_and_ours.py``."""

from types import SimpleNamespace

import pytest
from dht_network import (
    public_endpoint,
)
from kademlia.crawling import NodeSpiderCrawl, ValueSpiderCrawl
from kademlia.node import Node, NodeHeap
from kademlia_and_ours import NOW, OurPeer, in_loop, parent

from overlay.addresses import NodeId
from overlay.dht.lookup import Lookup
from overlay.dht.messages import (
    Contact,
    Contacts,
    MessageKind,
    parse_reply,
)
from overlay.dht.settings import DhtSettings
from overlay.errors import Malformed


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
