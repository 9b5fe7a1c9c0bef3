"""DHT cores on the in-memory network of `sims.world.engine`."""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import partial
from random import Random

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DescriptorFound
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from sims.world.engine.conditions import tap
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import NOWHERE
from sims.world.engine.network import Network as EngineNetwork
from sims.world.latency import Uniform

NETWORK_ID = "test-net"
START = 1_700_000_000.0
QUICK = DhtSettings(
    k=8, alpha=4, disjoint_paths=2, crawl_first_interval_s=6.0, crawl_interval_s=60.0
)
"""Settings of small overlays whose nodes crawl soon."""


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
    """One node of the network: its core, and all events of it."""

    def __init__(self, network, number, endpoint, settings, *, seed=0, envelopes=Envelopes):
        self.network, self.index = network, number
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

    def arrived(self, item):
        self.dht.receive([item], self.network.now)
        self.network.flush(self)

    def descriptors(self):
        return {e.descriptor.node_id: e.descriptor for e in self.of(DescriptorFound)}

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Outsider:
    """A host that is no member: ``handler(data, source)`` returns the datagrams of its answer."""

    index = NOWHERE

    def __init__(self, network, endpoint, handler):
        self.network, self.endpoint, self.handler = network, endpoint, handler

    def arrived(self, item):
        for answer in self.handler(*item):
            self.network.carry(answer, self.endpoint, item[1])


class Network(EngineNetwork):
    """The engine's network with members, each of which is driven by its deadlines."""

    def __init__(self, seed=1, settings=None, loss=0.0):
        heap = EventHeap(START)
        super().__init__(heap, Uniform(0.025, 0.075), Random(f"network {seed}"), loss=loss)
        self.rng = Random(seed)
        self.settings = settings or DhtSettings()
        self.sent_from = Counter()
        self.traffic = []
        self.record_traffic = False
        self.impose(tap(self._sent))

    @property
    def now(self):
        return self.heap.now

    def _sent(self, flight):
        assert len(flight.datagram) <= 1200
        self.sent_from[flight.source] += 1
        if self.record_traffic:
            self.traffic.append((self.now, flight.datagram, flight.source, flight.to))

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
        member = Member(self, number, endpoint, settings, seed=seed, envelopes=envelopes)
        self.attach(member)
        if publish:
            descriptor = make_descriptor(
                member.identity, endpoint, now=self.now, lifetime=lifetime, sequence=sequence
            )
            member.dht.publish(descriptor, self.now)
        self.flush(member)
        return member

    def bootstrap(self, member, *peers):
        member.dht.bootstrap([peer.endpoint for peer in peers], self.now)
        self.flush(member)

    def do(self, member, action):
        action(member.dht)
        self.flush(member)

    def outsider(self, endpoint, handler):
        """Attach a host that is no member."""
        self.attach(Outsider(self, endpoint, handler))

    def flush(self, member):
        self.take_events(member)
        for data, destination in member.dht.datagrams_to_send(self.now):
            self.carry(data, self.source_for(member, destination), destination)
        deadline = member.dht.next_deadline()
        if deadline != float("inf") and (member.wake is None or deadline < member.wake):
            member.wake = deadline
            self.heap.at(deadline, self._wake, member, deadline)

    def take_events(self, member):
        member.events += member.dht.events()

    def source_for(self, member, destination):
        """Return the endpoint from which a member sends to a destination."""
        return member.endpoint

    def run(self, seconds):
        self.run_until(self.now + seconds)

    def run_until(self, when):
        self.heap.run(when)

    def _wake(self, member, deadline):
        if member.wake != deadline or self.host_at(member.endpoint) is not member:
            return
        member.wake = None
        if member.dht.next_deadline() <= self.now:
            member.dht.handle_deadline(self.now)
            assert member.dht.next_deadline() > self.now, "the shell would spin"
        self.flush(member)


def grown(count, *, seed=1, settings=None, loss=0.0, run=40):
    """A network of ``count`` nodes that joined through the first one alone, and crawled."""
    network = Network(seed, settings, loss)
    members = [network.add(number) for number in range(count)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
        network.run(0.1)
    network.run(run)
    return network, members
