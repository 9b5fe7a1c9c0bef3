"""The package kademlia with a fake transport, and our core with a hand-driven peer.

Every row of ``test_kademlia_defects_*.py`` has two halves. The ``parent`` half runs the unmodified
classes with a fake transport and asserts the bad behaviour, so that it fails with a later version
without the defect. The ``ours`` half asserts the good behaviour of our classes.
"""

import asyncio
from random import Random

import umsgpack
from dht_network import (
    NETWORK_ID,
    START,
    make_descriptor,
    make_identity,
    public_endpoint,
)
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.storage import ForgetfulStorage

from overlay.addresses import NodeId
from overlay.dht.core import Dht
from overlay.dht.envelope import (
    Challenge,
    Envelopes,
    network_tag,
    parse_datagram,
)
from overlay.dht.messages import (
    Contact,
    Ping,
)
from overlay.dht.routing import Table
from overlay.dht.settings import DhtSettings

NOW = START
TAG = network_tag(NETWORK_ID)


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


def datagram(name, *args):
    return b"\0" + b"m" * 20 + umsgpack.packb([name, args])


def our_table(k=20):
    return Table(NodeId(bytes(20)), DhtSettings(k=k), Random(1))
