"""The defects of the package that show in a running node; see ``kademlia_and_ours.py``."""

import asyncio
import logging
import random
from collections import Counter
from random import Random
from types import SimpleNamespace

import kademlia.routing
import pytest
from dht_network import NETWORK_ID, START, Sent, grown, make_descriptor, public_endpoint
from kademlia.crawling import NodeSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable
from kademlia_and_ours import NOW, OurNode, OurPeer, datagram, in_loop, our_table, parent

from overlay.addresses import NodeId
from overlay.dht.calls import Calls
from overlay.dht.core import Dht
from overlay.dht.envelope import Envelopes, UnverifiedReply, network_tag, parse_datagram
from overlay.dht.events import DhtCount
from overlay.dht.inspection import DhtInspection
from overlay.dht.lookup import Lookup
from overlay.dht.messages import Contact, Contacts, FindNode, FindRecord, Leave, Ping, Store
from overlay.dht.routing import Table
from overlay.dht.settings import DhtSettings

ASKER = ("7.7.7.7", 7)


# -- K5: rounds wait for their slowest call


def test_k5_parent_asks_no_node_until_the_slowest_of_a_round_has_answered():
    target = bytes(20)
    asked, answer_slow = [], asyncio.Event()

    async def find(peer, _):
        asked.append(peer.id[:1])
        if peer.id[:1] == b"\xf1":
            await answer_slow.wait()
        return True, [(b"\x01" + peer.id[1:], "1.1.1.1", 1)] if peer.id[0] > 0xF0 else []

    async def run(loop):
        peers = [Node(bytes([first]) * 20, "1.1.1.1", 1) for first in (0xF1, 0xF2, 0xF3)]
        spider = NodeSpiderCrawl(SimpleNamespace(call_find_node=find), Node(target), peers, 20, 3)
        task = loop.create_task(spider.find())
        for _ in range(20):
            await asyncio.sleep(0)
        before = len(asked)
        answer_slow.set()
        await task
        return before, len(asked)

    before, after = in_loop(run)
    assert before == 3  # two have answered and named nearer nodes, which wait
    assert after > 3


def test_k5_ours_goes_on_with_each_answer():
    target = NodeId(bytes(20))
    peers = [OurPeer(number).contact for number in (2, 3, 4, 5)]
    settings = DhtSettings(alpha=3, disjoint_paths=1)
    lookup = Lookup(target, NodeId(b"o" * 20), peers[:3], settings, NOW)
    queries = lookup.queries(NOW)
    assert len(queries) == 3
    lookup.answered(queries[0], Contacts((peers[3],)), NOW)
    assert [query.contact for query in lookup.queries(NOW)] == [peers[3]]


# -- K8: publishing among the dead


def test_k8_parent_raises_when_every_neighbour_failed():
    async def run(loop):
        server = Server()
        server.protocol = parent()

        async def nobody(peer, node):
            return False, None

        server.protocol.call_find_node = nobody
        server.protocol.router.add_contact(Node(b"n" * 20, "1.1.1.1", 1))
        with pytest.raises(ValueError, match="empty"):
            await server.set_digest(b"k" * 20, b"value")

    in_loop(run)


def test_k8_ours_stores_later_when_a_node_is_there_again():
    network, members = grown(3)
    owner = members[0]
    for other in members[1:]:
        network.crash(other)
    fresh = make_descriptor(owner.identity, owner.endpoint, sequence=2)
    network.do(owner, lambda dht: dht.publish(fresh, network.now))
    network.run(30)
    newcomer = network.add(9)
    network.bootstrap(newcomer, owner)
    network.run(200)
    assert DhtInspection(newcomer.dht).record_count == 1


# -- K18: bounds of the id space


def test_k18_parent_has_one_id_too_many_and_no_bucket_for_longer_ones():
    async def run(loop):
        table = RoutingTable(parent(), 20, Node(bytes(20)))
        upper = table.buckets[-1].range[1]
        with pytest.raises(OverflowError):
            upper.to_bytes(20, "big")
        with pytest.raises(TypeError):
            table.add_contact(Node(b"\xff" * 32, "1.1.1.1", 1))

    in_loop(run)


def test_k18_ours_draws_refresh_targets_up_to_the_last_id_and_refuses_longer_ones():
    last = SimpleNamespace(choice=lambda all_: all_[-1], randint=lambda _, upper: upper)
    table = Table(NodeId(bytes(20)), DhtSettings(), last)
    assert table.refresh_target(NOW) == b"\xff" * 20
    node, peer = OurNode(), OurPeer(2)
    cookie = peer.cookie(node)
    long = peer.request(node, FindNode(NodeId(b"\xff" * 32)), cookie)
    assert node.feed(long, peer.endpoint) == []
    assert node.dht.counters()[DhtCount.MALFORMED] == 1


# -- K22: no error reply


@pytest.mark.parametrize(
    "request_", [("no_such_method",), ("ping", 1, 2, 3), ("find_node", b"x", 5)]
)
def test_k22_parent_is_silent_where_it_could_decline(request_):
    async def run(loop):
        loop.set_exception_handler(lambda *_: None)
        protocol = parent()
        protocol.datagram_received(datagram(*request_), ASKER)
        for _ in range(5):
            await asyncio.sleep(0)
        return protocol.transport.sent

    assert in_loop(run) == []


def test_k22_ours_answers_every_request_also_to_decline_it():
    stranger = OurPeer(3)
    foreign = make_descriptor(stranger.identity, stranger.endpoint).encoded
    target = NodeId(bytes(20))
    for request in (Ping(), FindNode(target), FindRecord(target), Store(foreign), Leave(1)):
        node, peer = OurNode(), OurPeer(2)
        answers = [
            parse_datagram(data, network_tag(NETWORK_ID)) for data, _ in peer.ask(node, request)
        ]
        assert sum(isinstance(answer, UnverifiedReply) for answer in answers) == 1


def test_k22_ours_loses_no_five_seconds_if_no_node_answers():
    settings = DhtSettings()
    peer, answers, sent = OurPeer(2), [], Sent()
    envelopes = Envelopes(OurPeer(1).identity, "test-net")
    calls = Calls(envelopes, settings, Random(1), sent, Counter())
    calls.start(
        Ping(), peer.endpoint, peer.identity.node_id, NOW, lambda answer, _: answers.append(answer)
    )
    now = NOW
    while not answers:
        now = calls.next_deadline()
        calls.handle_deadline(now)
    assert answers == [None]
    assert now - NOW <= 2.0
    assert len(sent) == settings.rpc_attempts


# -- K23: a misspelt attribute is a call over the network


def test_k23_parent_sends_a_misspelt_method():
    async def run(loop):
        protocol = parent()
        protocol.call_pign(("1.1.1.1", 1), b"s" * 20)
        return protocol.transport.calls("call_pign")

    assert len(in_loop(run)) == 1


@pytest.mark.parametrize("kind", [Dht, Calls, Lookup])
def test_k23_ours_raises_at_once(kind):
    assert "__getattr__" not in {name for base in kind.__mro__ for name in vars(base)}
    with pytest.raises(AttributeError):
        OurNode().dht.pign  # noqa: B018 - the access is the test


# -- K24: two clocks


def test_k24_parent_reads_the_clock_of_the_process(monkeypatch):
    monkeypatch.setattr(kademlia.routing, "time", SimpleNamespace(monotonic=lambda: 42.0))
    assert KBucket(0, 9, 20).last_updated == 42.0


def test_k24_ours_reads_the_one_that_it_is_given(monkeypatch):
    def read():
        raise AssertionError("the process's clock was read")

    monkeypatch.setattr(kademlia.routing, "time", SimpleNamespace(monotonic=read))
    table = our_table()
    for number in range(1, 40):
        contact = Contact(NodeId(bytes([number * 5]) * 20), public_endpoint(number), b"k" * 32)
        table.seen(contact, START)
    target = NodeId(b"\xff" * 20)
    table.refreshed(target, START)
    assert table.buckets[-1].last_updated == START
    assert len(table.buckets) > 1


# -- K25: randomness that no seed governs


def test_k25_parent_draws_message_ids_from_the_system():
    def first_datagram():
        async def run(loop):
            random.seed(1)
            protocol = parent()
            protocol.ping(("1.1.1.1", 1), b"s" * 20)
            return protocol.transport.sent[0][0]

        return in_loop(run)

    assert first_datagram() != first_datagram()


def test_k25_ours_sends_the_same_bytes_from_the_same_stream():
    def first_datagrams(seed):
        node = OurNode(seed=seed)
        node.dht.bootstrap([public_endpoint(5)], NOW)
        return node.dht.datagrams_to_send(NOW)

    assert first_datagrams(1) == first_datagrams(1)
    assert first_datagrams(1) != first_datagrams(2)


# -- K26: strangers suppress a refresh


def test_k26_parent_counts_a_request_of_an_unknown_node_as_a_refresh():
    async def run(loop):
        protocol = parent()
        protocol.router.buckets[0].last_updated = -1e9
        assert protocol.router.lonely_buckets()
        protocol.rpc_find_node(ASKER, b"s" * 20, b"t" * 20)
        return protocol.router.lonely_buckets()

    assert in_loop(run) == []


@pytest.mark.slow
def test_k26_ours_refreshes_all_the_same_and_not_all_at_one_time():
    node, peer = OurNode(), OurPeer(2)
    peer.ask(node, FindNode(NodeId(b"\xff" * 20)))
    node.dht.parts.table.refreshed(node.identity.node_id, NOW)
    node.dht.parts.table.buckets[0].last_updated = -1e9
    peer.ask(node, FindNode(NodeId(b"\xff" * 20)))
    assert node.dht.parts.table.refresh_target(NOW) is not None
    members = grown(6)[1]
    due = {member.dht.parts.schedule.next_deadline() % 1 for member in members}
    assert len(due) == 6


# -- K27: what survives stop()


def test_k27_parent_leaves_calls_and_timers_behind():
    async def run(loop):
        server = Server()
        server.protocol = parent()
        server.transport = SimpleNamespace(close=lambda: None)
        timers, call_later = [], loop.call_later
        loop.call_later = lambda *args: timers.append(call_later(*args)) or timers[-1]
        server.protocol.ping(("1.1.1.1", 1), b"s" * 20)
        server.stop()
        (timer,) = timers
        survived = not timer.cancelled()
        timer.cancel()
        return survived

    assert in_loop(run)


def test_k27_ours_has_nothing_left_to_do_after_leave():
    network, members = grown(4)
    leaver = members[1]
    network.do(leaver, lambda dht: dht.leave(network.now))
    network.run(10)
    assert leaver.dht.calls_in_flight == 0
    assert leaver.dht.next_deadline() == float("inf")


# -- K29: text for logs that nobody reads


class Printed(Exception):
    """A contact was turned into text."""


def test_k29_parent_formats_contacts_with_logging_off(monkeypatch):
    def shown(self):
        raise Printed

    async def run(loop):
        assert not logging.getLogger("kademlia.crawling").isEnabledFor(logging.ERROR)
        peers = [Node(b"p" * 20, "1.1.1.1", 1)]
        spider = NodeSpiderCrawl(parent(), Node(b"t" * 20), peers, 20, 3)
        monkeypatch.setattr(Node, "__str__", shown)
        monkeypatch.setattr(Node, "__repr__", shown)
        with pytest.raises(Printed):
            await spider.find()

    in_loop(run)


def test_k29_ours_formats_nothing(monkeypatch):
    def shown(self):
        raise Printed

    for kind in (Contact, Node):
        monkeypatch.setattr(kind, "__str__", shown)
        monkeypatch.setattr(kind, "__repr__", shown)
    _, members = grown(5, run=5)
    assert all(member.dht.contact_count for member in members)


# -- K30: neither authentication nor a network's name


def test_k30_parent_answers_nodes_of_every_network():
    async def run(loop):
        protocol = parent()
        protocol.datagram_received(datagram("ping", b"any id of any length"), ASKER)
        for _ in range(5):
            await asyncio.sleep(0)
        return [to for data, to in protocol.transport.sent if data[:1] == b"\1"]

    assert in_loop(run) == [ASKER]


def test_k30_ours_hears_its_own_network_only_and_signatures_only():
    node, peer = OurNode(), OurPeer(2)
    stranger = OurPeer(3)
    stranger.envelopes = Envelopes(stranger.identity, "another-net")
    assert node.feed(stranger.request(node, Ping()), stranger.endpoint) == []
    assert node.dht.counters()[DhtCount.OTHER_NETWORK] == 1
    forged = bytearray(peer.request(node, Ping(), peer.cookie(node)))
    forged[-1] ^= 1
    assert node.feed(bytes(forged), peer.endpoint) == []
    assert node.dht.counters()[DhtCount.NOT_AUTHENTIC] == 1
