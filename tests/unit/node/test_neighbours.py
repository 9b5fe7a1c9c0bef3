"""What a link installs: complete, or undone with that link alone."""

from dataclasses import replace
from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.datagram import UdpDatagram, build_datagram
from overlay.errors import BackendError
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import IpsecConfiguration, SaIdentity, Spi, UdpEncapsulation
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkFailure,
    LinkKeys,
    LinkSaRemoved,
    LinkSaRetired,
)
from overlay.neighbours import Neighbours
from overlay.sensitive import SecretBytes
from overlay.tfc.none import NoTfc

NOW = 1_000_000_000.0
HERE = Endpoint("192.0.2.1", 4500)
THERE = Endpoint("192.0.2.2", 4500)
OWN = LocalIdentity.generate(Random(9)).overlay_address
MALLORY, MIX = (LocalIdentity.generate(Random(n)) for n in (1, 2))


class Links:
    """Closing a link is answered with LinkClosed, as the links core does."""

    def __init__(self):
        self.closed, self.renewed = [], []

    def rekey(self, overlay_address, now, *, moved=False):
        self.renewed.append((overlay_address, moved))

    def close(self, overlay_address, now):
        self.closed.append(overlay_address)


class Circuits:
    def __init__(self):
        self.up, self.in_use = [], set()
        self.received, self.lost = [], []

    def uses_link(self, address):
        return address in self.in_use

    def link_established(self, address, security, now):
        self.up.append(address)

    def receive(self, packets, now):
        assert self.up, "the link is known before its packets"
        self.received += packets

    def link_lost(self, address, now):
        self.lost.append(address)
        if address in self.up:
            self.up.remove(address)


class World:
    def __init__(self):
        self.links, self.circuits = Links(), Circuits()
        self.engine = UserspaceEngine(rng=Random(3))
        self.route_exists, self.here = True, HERE
        self.build()

    def build(self):
        self.neighbours = Neighbours(
            own_address=OWN,
            links=self.links,
            backend=self.engine,
            circuits=self.circuits,
            tfc=NoTfc(None, Random(4)),
            local_address=self.local_address,
            link_payload_bytes=1400,
        )

    def local_address(self, peer):
        if not self.route_exists:
            raise BackendError("finding the local address towards a peer failed.")
        return self.here

    def establish(self, identity, inbound, outbound, *, usable=True, endpoint=THERE):
        keys = LinkKeys(
            3, Spi(inbound), SecretBytes(bytes(36)), Spi(outbound), SecretBytes(bytes(36))
        )
        self.neighbours.handle(
            LinkEstablished(
                identity.overlay_address, identity.node_id, endpoint, keys, usable, rekeyed=False
            ),
            NOW,
        )
        self.deliver_closings()

    def deliver_closings(self):
        closed, self.links.closed = self.links.closed, []
        for address in closed:
            self.neighbours.handle(LinkClosed(address, LinkFailure.IDLE), NOW)

    def link_sas(self):
        return self.engine.association_counts()["link SAs"]


@pytest.fixture
def world():
    return World()


def test_the_responders_outbound_sa_is_installed_only_when_usable(world):
    world.establish(MIX, 1000, 2000, usable=False)
    assert (world.link_sas(), world.circuits.up) == (1, [])
    world.establish(MIX, 1000, 2000, usable=True)
    assert (world.link_sas(), world.circuits.up) == (2, [MIX.overlay_address])


def test_a_pair_that_cannot_be_installed_ends_that_link_and_no_other(world):
    world.establish(MIX, 1000, 2000)
    world.establish(MALLORY, 1001, 2000)  # the SPI that the honest peer at this endpoint has
    assert MALLORY.overlay_address not in world.neighbours
    assert MIX.overlay_address in world.neighbours
    assert world.circuits.up == [MIX.overlay_address]
    assert world.link_sas() == 2
    assert world.neighbours.refused == 1
    world.establish(MALLORY, 1001, 2001)  # and it may do better
    assert world.link_sas() == 4


def test_a_peer_without_a_route_is_no_neighbour(world):
    world.route_exists = False
    world.establish(MIX, 1000, 2000)
    assert (len(world.neighbours), world.link_sas(), world.circuits.up) == (0, 0, [])


def test_rekeying_adds_and_removes_pairs_and_the_end_takes_all_of_them(world):
    world.establish(MIX, 1000, 2000)
    world.establish(MIX, 1001, 2001)
    assert world.link_sas() == 4
    world.neighbours.handle(LinkSaRemoved(MIX.overlay_address, Spi(1000), Spi(2000)), NOW)
    assert world.link_sas() == 2
    assert world.circuits.up == [MIX.overlay_address]
    world.neighbours.handle(LinkClosed(MIX.overlay_address, LinkFailure.PEER_CLOSED), NOW)
    assert (len(world.neighbours), world.link_sas(), world.circuits.up) == (0, 0, [])


def test_a_superseded_pair_receives_but_sends_no_more(world):
    world.establish(MIX, 1000, 2000)
    world.establish(MIX, 1001, 2001)
    superseded = LinkSaRetired(MIX.overlay_address, Spi(1000))
    for _ in range(2):
        world.neighbours.handle(superseded, NOW)
        assert world.link_sas() == 3
        assert world.engine.query(SaIdentity(Spi(1000), HERE.packed)) is not None
        assert world.engine.query(SaIdentity(Spi(2000), THERE.packed)) is None
    world.neighbours.handle(LinkSaRemoved(MIX.overlay_address, Spi(1000), Spi(2000)), NOW)
    world.neighbours.handle(superseded, NOW)
    world.neighbours.handle(LinkSaRetired(MALLORY.overlay_address, Spi(1000)), NOW)
    assert world.link_sas() == 2


def sent_to(world):
    """Where a control packet for the peer goes now."""
    packet = build_datagram(
        UdpDatagram(OWN, MIX.overlay_address, SIGNALLING_PORT, SIGNALLING_PORT, b"hello")
    )
    return [endpoint for _, endpoint in world.engine.process_outbound([packet], NOW).to_network]


def test_a_link_goes_on_with_its_circuits_where_its_peer_has_moved(world):
    elsewhere = Endpoint("192.0.2.3", 4500)
    world.establish(MIX, 1000, 2000)
    assert sent_to(world) == [THERE]
    world.establish(MIX, 1000, 2000, endpoint=elsewhere)
    assert sent_to(world) == [elsewhere]
    world.establish(MIX, 1001, 2001, endpoint=elsewhere)
    assert sent_to(world) == [elsewhere], "new keys as well"
    assert (len(world.neighbours), world.link_sas()) == (1, 4)
    assert world.circuits.lost == []
    world.establish(MIX, 1001, 2001)
    assert sent_to(world) == [THERE], "and back"
    world.neighbours.handle(LinkClosed(MIX.overlay_address, LinkFailure.IDLE), NOW)
    assert world.link_sas() == 0


class Kernel(UserspaceEngine):
    """A backend that gives SAs the addresses between which a link goes now."""

    def capabilities(self):
        return replace(super().capabilities(), moves_outer_addresses=True)

    def relocate(self, pairs, local, remote):
        moved = []
        for pair in pairs:
            self.remove(pair)
            ends = {True: (remote, local), False: (local, remote)}
            associations = tuple(
                replace(
                    sa,
                    source=ends[sa.inbound][0].packed,
                    destination=ends[sa.inbound][1].packed,
                    encapsulation=UdpEncapsulation(*ends[sa.inbound]),
                )
                for sa in pair.associations
            )
            moved.append(IpsecConfiguration(associations, ()))
            self.install(moved[-1])
        return moved


def test_where_sas_bear_the_addresses_of_a_link_later_keys_have_them_too(world):
    elsewhere, world.engine = Endpoint("192.0.2.3", 4500), Kernel(rng=Random(3))
    world.build()
    world.establish(MIX, 1000, 2000)
    world.establish(MIX, 1000, 2000, endpoint=elsewhere)
    assert world.links.renewed == [(MIX.overlay_address, True)], "after the probation"
    world.here = Endpoint("192.0.2.9", 4500)
    world.establish(MIX, 1001, 2001, endpoint=elsewhere)
    for spi in (1000, 1001):
        assert world.engine.query(SaIdentity(Spi(spi), world.here.packed)) is not None
        assert world.engine.query(SaIdentity(Spi(spi + 1000), elsewhere.packed)) is not None
    assert world.link_sas() == 4
    assert len(world.links.renewed) == 1, "these keys are new"
    world.neighbours.handle(LinkClosed(MIX.overlay_address, LinkFailure.IDLE), NOW)
    assert (world.link_sas(), world.circuits.lost) == (0, [MIX.overlay_address])


def test_a_link_is_renewed_only_if_the_peer_no_longer_publishes_the_links_endpoint(world):
    elsewhere, behind = Endpoint("192.0.2.3", 4500), Endpoint("192.0.2.4", 4500)
    world.establish(MIX, 1000, 2000)
    address = MIX.overlay_address
    for before, after in (
        ((THERE,), (elsewhere, THERE)),
        ((elsewhere,), (behind,)),  # the peer is behind NAT: it never named the link's endpoint
    ):
        world.neighbours.published(address, before, after, NOW)
    world.neighbours.published(MALLORY.overlay_address, (THERE,), (elsewhere,), NOW)
    assert world.links.renewed == []
    world.neighbours.published(address, (THERE,), (elsewhere,), NOW)
    assert world.links.renewed == [(address, False)]


class Fixed(UserspaceEngine):
    """A backend that cannot move links."""

    def relocate(self, pairs, local, remote):
        return None


def test_where_a_backend_cannot_move_a_link_the_peer_is_told_that_it_ends(world):
    world.engine = Fixed(rng=Random(3))
    world.build()
    world.establish(MIX, 1000, 2000)
    world.establish(MIX, 1000, 2000, endpoint=Endpoint("192.0.2.3", 4500))
    assert world.circuits.lost == [MIX.overlay_address]
    assert (len(world.neighbours), world.link_sas()) == (0, 0)


def test_an_idle_link_is_closed_after_its_grace_and_one_in_use_is_not(world):
    world.establish(MIX, 1000, 2000)
    world.circuits.in_use.add(MIX.overlay_address)
    for later in (0, 100, 200):
        world.neighbours.close_idle(NOW + later)
    assert not world.links.closed
    world.circuits.in_use.clear()
    world.neighbours.close_idle(NOW + 210)
    world.neighbours.close_idle(NOW + 269)
    assert not world.links.closed
    world.neighbours.close_idle(NOW + 270)
    world.deliver_closings()
    assert (len(world.neighbours), world.link_sas()) == (0, 0)


def from_neighbour(identity, payload):
    return build_datagram(
        UdpDatagram(identity.overlay_address, OWN, SIGNALLING_PORT, SIGNALLING_PORT, payload)
    )


def test_packets_that_come_before_a_link_is_usable_wait_for_it(world):
    early = [from_neighbour(MIX, bytes([n])) for n in range(20)]
    other = from_neighbour(MALLORY, b"of an established link")
    world.establish(MIX, 1000, 2000, usable=False)
    world.establish(MALLORY, 1001, 2001)
    assert world.neighbours.ready([*early, other]) == [other]
    assert world.circuits.received == []
    world.establish(MIX, 1000, 2000, usable=True)
    assert world.circuits.received == early[:16], "a bounded number, in order"
    assert world.neighbours.ready(early) == early
    world.establish(MIX, 1000, 2000, usable=True)
    assert len(world.circuits.received) == 16


def test_a_link_that_is_proved_elsewhere_before_it_was_used_is_installed_there(world):
    """A copy of the peer's initiation came first, from another endpoint."""
    elsewhere = Endpoint("192.0.2.66", 666)
    world.establish(MIX, 1000, 2000, usable=False, endpoint=elsewhere)
    early = [from_neighbour(MIX, b"onion")]
    assert world.neighbours.ready(early) == []
    world.establish(MIX, 1000, 2000, usable=True)
    assert (len(world.neighbours), world.link_sas(), world.links.closed) == (1, 2, [])
    assert world.circuits.lost == []
    assert world.circuits.received == early
    assert world.engine.query(SaIdentity(Spi(2000), THERE.packed)) is not None
    assert world.engine.query(SaIdentity(Spi(2000), elsewhere.packed)) is None
