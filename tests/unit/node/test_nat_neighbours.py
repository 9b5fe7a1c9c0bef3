"""Exchange of local endpoints between nodes behind one NAT, and which of them links may use."""

from random import Random
from types import SimpleNamespace

import pytest

from overlay.addresses import Endpoint
from overlay.apm.crypto import X25519_SUITE, OnionPrivateKey
from overlay.dht.core import Dht
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.help_messages import MAX_SEALED_BYTES
from overlay.dht.settings import DhtSettings
from overlay.dht.topology_table import TopologyTable
from overlay.errors import Malformed, NotAuthentic, Replayed
from overlay.identity import LocalIdentity
from overlay.link.events import LinkPeer
from overlay.link.peer_endpoints import PeerEndpoints
from overlay.node.nat_neighbours import NatNeighbours, open_location, seal_location
from overlay.node.own_endpoints import NodeEndpoints

NET, NOW = "test-net", 1_700_000_000.0
ALICE, BOB, EVE = (LocalIdentity.generate(Random(number)) for number in range(3))
OUTSIDE = Endpoint("80.0.0.1", 4500)
ALICE_AT, BOB_AT = Endpoint("192.168.7.2", 4500), Endpoint("192.168.7.3", 4501)


def descriptor(identity, *endpoints):
    return sign_descriptor(
        identity,
        network_id=NET,
        onion_keys=[OnionKey(X25519_SUITE, identity.onion_key)],
        esp_suites=[3],
        endpoints=endpoints,
        roles=[Role.RELAY],
        exit_policy=None,
        bandwidth_kbit=1,
        sequence=1,
        valid_from=int(NOW),
        expires=int(NOW) + 10_000,
    )


ALICES = descriptor(ALICE, OUTSIDE)
BOBS = descriptor(BOB, Endpoint(OUTSIDE.host, 4501))


def key_of(identity):
    return OnionPrivateKey(X25519_SUITE, identity.onion_private)


def opened(sealed, *, by=ALICE, sender=BOBS, now=NOW, network=NET):
    return open_location(key_of(by), by, network, sender, sealed, now)


def test_what_one_node_seals_only_the_other_opens():
    sealed = seal_location(BOB, NET, ALICES, [BOB_AT], NOW)
    assert opened(sealed) == (BOB_AT,)
    assert BOB_AT.packed not in sealed
    for changes in ({"by": EVE}, {"sender": descriptor(EVE, OUTSIDE)}, {"network": "other"}):
        with pytest.raises(NotAuthentic):
            opened(sealed, **changes)
    with pytest.raises(NotAuthentic):
        opened(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(Replayed):
        opened(sealed, now=NOW + 1300)


def test_the_longest_fits():
    four = [Endpoint(f"192.168.255.{n}", 65_535) for n in range(250, 254)]
    assert len(seal_location(BOB, NET, ALICES, four, NOW)) <= MAX_SEALED_BYTES


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"]
)
def test_a_neighbour_that_lies_leads_nowhere_but_into_the_local_network(host):
    sealed = seal_location(BOB, NET, ALICES, [Endpoint(host, 53)], NOW)
    with pytest.raises(Malformed):
        opened(sealed)


@pytest.mark.parametrize("count", [0, 5])
def test_none_or_too_many_are_malformed(count):
    sealed = seal_location(BOB, NET, ALICES, [BOB_AT] * count, NOW)
    with pytest.raises(Malformed):
        opened(sealed)


class Alice:
    """Alice behind the NAT; what her meetings would do, a test does."""

    def __init__(self, *known, here=None):
        self.table = TopologyTable()
        for each in known:
            self.table.add(each, NOW)
        self.dht = Dht(ALICE, network_id=NET, settings=DhtSettings(), rng=Random(1))
        self.links = SimpleNamespace(endpoints=PeerEndpoints(allow_private=False, most=8))
        self.here = here or NodeEndpoints(
            published=(OUTSIDE,), own=frozenset({ALICE_AT}), local=(ALICE_AT,)
        )
        self.followed = []
        meetings = self.dht.reachability.meetings
        meetings.serve = lambda seal, found: setattr(self, "met", (seal, found))
        meetings.follow = lambda neighbours, now: self.followed.append(list(neighbours))
        self.cores = SimpleNamespace(dht=self.dht, links=self.links, table=self.table)
        self.neighbours = NatNeighbours(ALICE, NET, self.cores, SimpleNamespace(now=self.here))


def other(number, host):
    return descriptor(LocalIdentity.generate(Random(number)), Endpoint(host, 4500))


def test_only_nodes_that_publish_the_same_outside_address_are_looked_for():
    others = [other(10 + n, f"80.0.{n + 1}.1") for n in range(5)]
    alice = Alice(ALICES, BOBS, *others)
    alice.neighbours.review(NOW)
    [[bob]] = alice.followed
    assert bob.node_id == BOB.node_id
    assert len(bob.places) == 3


@pytest.mark.parametrize(
    "here",
    [
        NodeEndpoints(published=(OUTSIDE,), own=frozenset({OUTSIDE}), local=(OUTSIDE,)),
        NodeEndpoints(own=frozenset({ALICE_AT}), local=(ALICE_AT,)),
        NodeEndpoints(published=(OUTSIDE,)),
    ],
    ids=["no NAT", "nothing published", "no local address"],
)
def test_a_node_without_nat_looks_for_none(here):
    alice = Alice(BOBS, here=here)
    alice.neighbours.review(NOW)
    assert alice.followed[-1] == []


def test_links_may_speak_with_a_found_neighbour_until_it_is_gone():
    alice = Alice(ALICES, BOBS)
    _, found = alice.met
    sealed = seal_location(BOB, NET, ALICES, [BOB_AT], NOW)
    assert not alice.links.endpoints.allows(BOB_AT)
    assert found(BOB.node_id, [b"junk", sealed], NOW)
    assert alice.cores.nearby(BOB.overlay_address) == (BOB_AT,)
    assert alice.cores.nearby(EVE.overlay_address) == ()
    assert alice.links.endpoints.allows(BOB_AT)
    assert not alice.links.endpoints.allows(Endpoint("192.168.7.4", 4501))
    alice.table.remove(BOB.node_id)
    assert not found(BOB.node_id, (), NOW)
    assert not alice.links.endpoints.allows(BOB_AT)


def test_a_local_endpoint_of_this_host_itself_is_not_used():
    alice = Alice(ALICES, BOBS)
    _, found = alice.met
    found(BOB.node_id, [seal_location(BOB, NET, ALICES, [ALICE_AT], NOW)], NOW)
    assert alice.cores.nearby(BOB.overlay_address) == ()


def test_what_answered_last_time_is_tried_first_and_what_is_not_allowed_is_not():
    endpoints = PeerEndpoints(allow_private=False, most=1)
    peer = LinkPeer(BOB.overlay_address, BOB.link_key, BOB_AT, (OUTSIDE,))
    assert endpoints.best_first(peer).endpoints == (OUTSIDE,)
    endpoints.local = frozenset({BOB_AT.packed})
    assert endpoints.best_first(peer).endpoints == (BOB_AT, OUTSIDE)
    endpoints.remember(BOB.overlay_address, OUTSIDE)
    assert endpoints.best_first(peer).endpoints == (OUTSIDE, BOB_AT)
