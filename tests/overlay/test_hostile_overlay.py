"""Whole overlays under attack, and over the hours: links, next hops, probes."""

from dataclasses import replace
from ipaddress import ip_network

import pytest
from overlay_world import DELAY_S, World

from overlay import neighbours
from overlay.addresses import Endpoint
from overlay.link.events import LinkPeer
from overlay.link.settings import LinkSettings
from overlay.paths.requested_path import PathState
from overlay.selection.selector import MixPath
from sims.world.engine.conditions import drop

BOB = "203.0.113.10/32"
OBSERVER = Endpoint("66.6.6.6", 666)


@pytest.fixture
def world():
    made = World(8)
    made.join_all()
    return made


def open_path(world, node, **terms):
    path = node.request(BOB, **terms)
    assert world.run(30, until=lambda: path.settled)
    assert path.state is PathState.OPEN, path.error
    return path


def node_of(world, descriptor):
    return next(n for n in world.all if n.identity.node_id == descriptor.node_id)


@pytest.mark.slow
def test_a_circuit_that_carries_nothing_but_keepalives_lasts_past_every_timer(world):
    """Its links are in use: neither idleness nor two rekeyings may end them."""
    path = open_path(world, world.all[1])
    before = path.circuit
    world.run(2000)
    assert (path.circuit, path.state) == (before, PathState.OPEN)


@pytest.mark.slow
def test_an_initiation_repeated_from_elsewhere_does_not_end_the_link(world):
    """An attacker on the path can delay a rekeying's first message and send it itself."""
    alice = world.all[1]
    path = open_path(world, alice)
    before = path.circuit
    first = node_of(world, path.mix_path.hops[0])
    stolen = []

    def is_initiation(flight):
        found = flight.datagram[:6] == b"\0\0\0\0\2\1"
        stolen.extend([flight.datagram] if found else [])
        return found

    theft = world.network.impose(drop(is_initiation), sender=alice, receiver=first)
    world.run(LinkSettings().rekey_pause_s)  # no younger link changes its keys
    alice.cores.links.rekey(first.identity.overlay_address, world.now)
    alice.cores.settle(world.now)
    assert stolen
    world.network.carry(stolen[0], OBSERVER, first.endpoint)
    world.run(2)
    world.network.lift(theft)
    world.run(30)
    assert (path.circuit, path.state) == (before, PathState.OPEN)


def observe(world, one, other, *, forwards, faster=False):
    """Let an observer of one link send a copy of each datagram, which arrives before it.

    What is sent to the observer it passes on, if it ``forwards``, under the sender's address; if
    it is ``faster``, all that takes it no time, else as long as any two ways.
    """
    ends = {one.endpoint: other.endpoint, other.endpoint: one.endpoint}

    def with_copies(flight):
        if flight.to == OBSERVER and forwards and flight.source in ends:
            extra_s = -DELAY_S if faster else 2 * DELAY_S  # to the observer and on
            yield replace(flight, to=ends[flight.source], extra_s=extra_s)
        if ends.get(flight.source) == flight.to:
            extra_s = -DELAY_S if faster else -DELAY_S / 2
            yield replace(flight, source=OBSERVER, extra_s=extra_s)
        yield flight

    world.network.impose(with_copies)


def esp_to_observer(world):
    return [d for _, to, d in world.wire if to == OBSERVER and not d.startswith(bytes(4))]


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [False, True])
def test_an_observer_that_copies_every_datagram_ends_no_circuit_and_gets_no_link(world, forwards):
    alice = world.all[1]
    path = open_path(world, alice)
    before = path.circuit
    first = node_of(world, path.mix_path.hops[0])
    observe(world, alice, first, forwards=forwards)
    for one, other in ((alice, first), (first, alice), (alice, first)):
        world.run(LinkSettings().rekey_pause_s)
        one.cores.links.rekey(other.identity.overlay_address, world.now)
        one.cores.settle(world.now)
        world.run(15)
    assert (path.circuit, path.state) == (before, PathState.OPEN)
    assert esp_to_observer(world) == []


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [False, True])
def test_a_new_link_opens_past_an_observer_that_copies_every_datagram(world, forwards):
    alice = world.all[1]
    for other in world.all:
        if other is not alice:
            observe(world, alice, other, forwards=forwards)
    begun = world.now
    open_path(world, alice)
    assert world.now - begun < 2, "one more round trip, and no lost attempt"
    world.run(20)
    assert esp_to_observer(world) == []


@pytest.mark.slow
def test_an_observer_that_wins_every_race_is_corrected_and_the_path_opens(world):
    """What the nodes know of their own addresses decides, not who is faster."""
    alice = world.all[1]
    for other in world.all:
        if other is not alice:
            observe(world, alice, other, forwards=True, faster=True)
    path = open_path(world, alice)
    world.run(5)
    before, begun = path.circuit, len(world.wire)
    world.run(60)
    assert (path.circuit, path.state) == (before, PathState.OPEN)
    late = [d for _, to, d in world.wire[begun:] if to == OBSERVER]
    assert not [d for d in late if not d.startswith(bytes(4))]


def test_a_wrong_endpoint_in_a_layer_does_not_hold_up_the_link_that_others_want(world):
    """The source of the circuit lies to its relay about the next hop."""
    source, relay, wanted = world.all[1], world.all[0], world.all[-1]
    true = {node: source.cores.table.get(node.identity.node_id) for node in (relay, wanted)}
    lie = replace(true[wanted], link_key=bytes([9]) * 32, endpoints=(Endpoint("99.9.9.9", 9),))
    path = MixPath((true[relay], lie))
    source.cores.circuits.anonymous_connection(path, ip_network(BOB), world.now)
    source.cores.settle(world.now)
    assert world.run(2, until=lambda: wanted.identity.overlay_address in relay.cores.neighbours)
    assert not any(to.host == "99.9.9.9" for _, to, _ in world.wire)


@pytest.mark.slow
def test_links_never_take_the_reqids_of_circuits(monkeypatch):
    """Here only three are theirs, so they come round again after the third link."""
    monkeypatch.setattr(neighbours, "FIRST_CIRCUIT_REQID", 4)
    world = World(8)
    world.join_all()
    alice, *others = world.all[1:6]

    def connect(other):
        peer = LinkPeer(other.identity.overlay_address, other.identity.link_key, other.endpoint)
        alice.cores.links.connect(peer, world.now)
        alice.cores.settle(world.now)
        world.run(2)

    def reqids():
        held = alice.engine.contents().associations
        return sorted({sa.reqid for sa in held if sa.encapsulation is not None})

    for other in others[:3]:
        connect(other)
    assert reqids() == [1, 2, 3]
    alice.cores.links.close(others[1].identity.overlay_address, world.now)
    alice.cores.settle(world.now)
    world.run(5)
    assert reqids() == [1, 3]
    connect(others[3])
    assert reqids() == [1, 2, 3]
