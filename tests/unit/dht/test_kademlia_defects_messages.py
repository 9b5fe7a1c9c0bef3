"""Known defects of kademlia 2.2.3 and rpcudp 5.0.1 in messages; see ``kademlia_and_ours.py``."""

import asyncio
import gc
from collections import Counter
from random import Random

import pytest
import umsgpack
from dht_network import (
    NETWORK_ID,
    Sent,
    make_descriptor,
    make_identity,
    public_endpoint,
)
from kademlia_and_ours import NOW, TAG, OurNode, OurPeer, datagram, in_loop, parent

from overlay.addresses import NodeId
from overlay.dht.calls import Calls
from overlay.dht.envelope import (
    Envelopes,
    UnverifiedReply,
    parse_datagram,
)
from overlay.dht.events import DhtCount
from overlay.dht.messages import (
    FindNode,
    FindRecord,
    Ping,
    Pong,
)
from overlay.dht.settings import DhtSettings
from overlay.errors import Malformed


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
