"""A network of DHT cores in memory: one event heap, virtual time, hardship by name."""

from __future__ import annotations

import heapq
import ipaddress
import itertools
from collections import defaultdict
from functools import partial
from random import Random

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DescriptorFound
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity

NETWORK_ID = "test-net"
START = 1_700_000_000.0


def public_endpoint(number, port=4500):
    """An endpoint on the public Internet, each in its own /24."""
    return Endpoint(str(ipaddress.ip_address(0x50000001 + 256 * number)), port)


def make_identity(number):
    return LocalIdentity.generate(Random(f"identity {number}"))


def make_descriptor(identity, endpoint, *, now=START, sequence=1, lifetime=10_000, **changes):
    fields = {
        "network_id": NETWORK_ID,
        "onion_keys": (OnionKey(1, identity.onion_key),),
        "esp_suites": (3,),
        "endpoints": (endpoint,),
        "roles": {Role.RELAY},
        "exit_policy": None,
        "bandwidth_kbit": 1000,
        "sequence": sequence,
        "valid_from": int(now),
        "expires": int(now) + lifetime,
    }
    return sign_descriptor(identity, **(fields | changes))


class Sent(list):
    """Takes the place of an outbox, and keeps what is sent."""

    def send(self, datagram, endpoint, now):
        self.append((datagram, endpoint))


def into(answers):
    """Return what keeps the answers of calls in a list."""
    return lambda answer, now: answers.append(answer)


class AtClock:
    """A part whose named methods get the time of a clock, so that a test need not repeat it."""

    def __init__(self, part, clock, methods):
        self._part, self._clock, self._methods = part, clock, methods

    def __getattr__(self, name):
        found = getattr(self._part, name)
        return partial(found, now=self._clock.now) if name in self._methods else found

    def __len__(self):
        return len(self._part)

    def __iter__(self):
        return iter(self._part)


class Member:
    """One node of the network: its core, and all that it ever told."""

    def __init__(self, number, endpoint, settings, *, seed=0, envelopes=Envelopes):
        self.identity = make_identity(number)
        self.endpoint = endpoint
        self.dht = Dht(
            self.identity,
            network_id=NETWORK_ID,
            settings=settings,
            rng=Random(f"core {number} {seed}"),
            envelopes=envelopes(self.identity, NETWORK_ID),
        )
        self.node_id = self.identity.node_id
        self.events = []
        self.wake = None

    def descriptors(self):
        return {e.descriptor.node_id: e.descriptor for e in self.of(DescriptorFound)}

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Network:
    """Delivers datagrams after 25 to 75 ms; knows who is dead; may lose or bend what it carries."""

    def __init__(self, seed=1, settings=None, loss=0.0):
        self.rng = Random(seed)
        self.settings = settings or DhtSettings()
        self.loss = loss
        self.now = START
        self.members = {}
        self.sent = defaultdict(int)
        self.traffic = []
        self.record_traffic = False
        self.strangers = {}
        self._heap = []
        self._serial = itertools.count()

    def add(
        self,
        number,
        *,
        publish=True,
        settings=None,
        seed=0,
        lifetime=10_000,
        sequence=1,
        envelopes=Envelopes,
    ):
        """Add a node; hostile ``envelopes`` let it answer falsely (docs/decisions/0060)."""
        endpoint = public_endpoint(number)
        settings = settings or self.settings
        member = Member(number, endpoint, settings, seed=seed, envelopes=envelopes)
        self.members[endpoint] = member
        if publish:
            descriptor = make_descriptor(
                member.identity, endpoint, now=self.now, lifetime=lifetime, sequence=sequence
            )
            member.dht.publish(descriptor, self.now)
        self.flush(member)
        return member

    def crash(self, member):
        del self.members[member.endpoint]

    def bootstrap(self, member, *peers):
        member.dht.bootstrap([peer.endpoint for peer in peers], self.now)
        self.flush(member)

    def do(self, member, action):
        action(member.dht)
        self.flush(member)

    def stranger(self, endpoint, handler):
        """Let ``handler(data, source) -> list of datagrams`` live at an endpoint."""
        self.strangers[endpoint] = handler

    def flush(self, member):
        member.events += member.dht.events()
        for data, destination in member.dht.datagrams_to_send(self.now):
            self.carry(data, member.endpoint, destination)
        deadline = member.dht.next_deadline()
        if deadline != float("inf") and (member.wake is None or deadline < member.wake):
            member.wake = deadline
            self._push(deadline, ("wake", member, deadline))

    def carry(self, data, source, destination):
        assert len(data) <= 1200
        self.sent[source] += 1
        if self.record_traffic:
            self.traffic.append((self.now, data, source, destination))
        if self.rng.random() >= self.loss:
            delay = self.rng.uniform(0.025, 0.075)
            self._push(self.now + delay, ("data", data, source, destination))

    def run(self, seconds):
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            if what[0] == "wake":
                self._wake(*what[1:])
            else:
                self._deliver(*what[1:])
        self.now = end

    def _wake(self, member, deadline):
        if member.wake != deadline or self.members.get(member.endpoint) is not member:
            return
        member.wake = None
        if member.dht.next_deadline() <= self.now:
            member.dht.handle_deadline(self.now)
            assert member.dht.next_deadline() > self.now, "the shell would spin"
        self.flush(member)

    def _deliver(self, data, source, destination):
        member = self.members.get(destination)
        if member is not None:
            member.dht.receive([(data, source)], self.now)
            self.flush(member)
        elif destination in self.strangers:
            for answer in self.strangers[destination](data, source):
                self.carry(answer, destination, source)

    def _push(self, when, what):
        heapq.heappush(self._heap, (when, next(self._serial), what))


def grown(count, *, seed=1, settings=None, loss=0.0, run=40):
    """A network of ``count`` nodes that joined through the first one alone, and crawled."""
    network = Network(seed, settings, loss)
    members = [network.add(number) for number in range(count)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
        network.run(0.1)
    network.run(run)
    return network, members
