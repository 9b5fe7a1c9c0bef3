"""Links replace keys by volume while packets flow both ways, and each packet can be opened.

The cores are real, and so is what installs their SAs. The engine is ours, or a model of how Linux
chooses among outbound SAs of one reqid (net/xfrm/xfrm_state.c, xfrm_state_look_at()): one below
its soft limit before one above, then the younger in whole seconds, then whatever its table has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.addresses import Endpoint
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.datagram import HEADER_BYTES, UdpDatagram, build_datagram
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import (
    BackendCapabilities,
    IpsecConfiguration,
    SaIdentity,
    SecurityAssociation,
    Spi,
)
from overlay.ipsec.lifetimes import RekeyLimits, draw_lifetime
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.events import LinkClosed, LinkEstablished, LinkFailed, LinkPeer
from overlay.link.links import Links
from overlay.link.machine import MAX_OLD_PAIRS
from overlay.link.settings import LinkSettings
from overlay.neighbours import Neighbours
from overlay.tfc.none import NoTfc
from sims.world.engine.conditions import Flight, drop
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.latency import Uniform

NOW = 1_800_000_000.0
SETTINGS = LinkSettings(rekey_after_s=20.0)
LIMITS = RekeyLimits(soft_s=None, hard_s=200.0, soft_bytes=20_000, soft_packets=60)
LATEST_S = SETTINGS.rekey_pause_s / 2
"""The longest that a packet takes: less than the pause between two changes."""

IDENTITIES = [LocalIdentity.generate(Random(number)) for number in range(2)]
ENDPOINTS = [Endpoint("8.8.8.8", 4500), Endpoint("9.9.9.9", 4500)]


class Installed:
    """One SA of the model, with what the kernel counts."""

    def __init__(self, value: SecurityAssociation, now: float) -> None:
        self.value, self.second = value, int(now)
        self.packets = self.bytes = 0
        self.dying = False

    def passes(self, size: int) -> bool:
        """Count a packet; tell whether that reached a soft limit."""
        self.packets += 1
        self.bytes += size
        limits = self.value.lifetime
        worn = self.packets >= limits.soft_packets or self.bytes >= limits.soft_bytes
        first, self.dying = worn and not self.dying, worn
        return first


@dataclass(frozen=True)
class Sealed:
    """A packet on its way: an ESP packet, or in the model the SPI and the size."""

    content: bytes | tuple[Spi, int]


class LinuxSad:
    """An IpsecBackend that keeps SAs alone, and tells which wear out."""

    def __init__(self, rng: Random, number: int) -> None:
        self.rng, self.now = rng, NOW
        self.held: list[Installed] = []
        self.worn: list[SaIdentity] = []

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities("linux", frozenset(SUITES), 4, moves_outer_addresses=True)

    def install(self, configuration: IpsecConfiguration) -> None:
        self.held += [Installed(sa, self.now) for sa in configuration.associations]

    def remove(self, configuration: IpsecConfiguration) -> None:
        gone = {(sa.identity, sa.inbound) for sa in configuration.associations}
        self.held = [
            each for each in self.held if (each.value.identity, each.value.inbound) not in gone
        ]

    def outbound(self) -> Installed | None:
        """Return what Linux would seal the next packet with."""
        found = [each for each in self.held if not each.value.inbound]
        self.rng.shuffle(found)
        return min(found, key=lambda each: (each.dying, -each.second), default=None)

    def inbound(self, spi: Spi) -> Installed | None:
        return next((e for e in self.held if e.value.inbound and e.value.spi == spi), None)

    def seal(self, size: int, now: float) -> Sealed:
        chosen = self.outbound()
        assert chosen is not None
        self._passes(chosen, size)
        return Sealed((chosen.value.spi, size))

    def opens(self, packet: Sealed, now: float) -> bool:
        spi, size = packet.content
        found = self.inbound(Spi(spi))
        if found is not None:
            self._passes(found, size)
        return found is not None

    def _passes(self, installed: Installed, size: int) -> None:
        if installed.passes(size):
            self.worn.append(installed.value.identity)

    def soft_expired(self) -> list[SaIdentity]:
        worn, self.worn = self.worn, []
        return worn

    def can_send(self) -> bool:
        return self.outbound() is not None

    def held_by_direction(self) -> tuple[int, int]:
        inbound = sum(each.value.inbound for each in self.held)
        return inbound, len(self.held) - inbound


class OurEngine(UserspaceEngine):
    """The userspace engine between two neighbours' overlay addresses."""

    def __init__(self, rng: Random, number: int) -> None:
        super().__init__(rng=rng)
        self.now, self._number = NOW, number

    def seal(self, size: int, now: float) -> Sealed:
        own, peer = (IDENTITIES[n].overlay_address for n in (self._number, 1 - self._number))
        payload = bytes(max(1, size - HEADER_BYTES))
        packet = build_datagram(UdpDatagram(own, peer, SIGNALLING_PORT, SIGNALLING_PORT, payload))
        [(data, endpoint)] = self.process_outbound([packet], now).to_network
        assert endpoint == ENDPOINTS[1 - self._number]
        return Sealed(data)

    def opens(self, packet: Sealed, now: float) -> bool:
        processed = self.process_inbound([(packet.content, ENDPOINTS[1 - self._number])], now)
        assert self.drops() == {}
        return len(processed.to_control) == 1

    def can_send(self) -> bool:
        return any(not sa.inbound for sa in self.contents().associations)

    def held_by_direction(self) -> tuple[int, int]:
        held = [sa.inbound for sa in self.contents().associations]
        return held.count(True), held.count(False)


class Circuits:
    """Circuits keep the link busy, so that no node closes it."""

    def uses_link(self, address: bytes) -> bool:
        return True

    def link_established(self, address: bytes, security: object, now: float) -> None:
        pass

    def link_lost(self, address: bytes, now: float) -> None:
        raise AssertionError("the link ended")


class End:
    """One node: a links core, what installs its SAs, the engine."""

    def __init__(
        self, world: World, number: int, seed: int, engine: type[LinuxSad | OurEngine]
    ) -> None:
        self.world, self.index, self.endpoint = world, number, ENDPOINTS[number]
        self.opened, rng = 0, Random(seed)
        self.engine = engine(Random(seed + 1), number)
        self.installed: set[Spi] = set()
        spis = count(1000 * (number + 1))
        self.links = Links(
            IDENTITIES[number], "lab", SETTINGS, rng, lambda: Spi(next(spis)), lambda spi: None
        )
        self.neighbours = Neighbours(
            own_address=IDENTITIES[number].overlay_address,
            links=self.links,
            backend=self.engine,  # type: ignore[arg-type] - as much of it as links need
            circuits=Circuits(),  # type: ignore[arg-type]
            tfc=NoTfc(None, rng),
            local_address=lambda peer: ENDPOINTS[number],
            link_payload_bytes=1400,
            lifetime=lambda suite: draw_lifetime(LIMITS, suite, rng),
        )

    def arrived(self, item: tuple[bytes | Sealed, Endpoint]) -> None:
        what, source = item
        now = self.world.now
        if isinstance(what, bytes):
            self.links.receive([(what, source)], now)
        else:
            assert self.engine.opens(what, now), "the receiver has keys for every packet"
            self.opened += 1
        self.settle(now)

    def next_deadline(self) -> float:
        return self.links.next_deadline()

    def handle_deadline(self, now: float) -> None:
        self.links.handle_deadline(now)
        self.settle(now)

    def settle(self, now: float) -> None:
        self.engine.now = now
        for identity in self.engine.soft_expired():
            self.neighbours.soft_expired(identity, now)
        for event in self.links.events():
            assert not isinstance(event, LinkFailed | LinkClosed)
            self.neighbours.handle(event, now)
            if isinstance(event, LinkEstablished) and event.keys.inbound_spi not in self.installed:
                self.installed.add(event.keys.inbound_spi)
        for data, to in self.links.datagrams_to_send(now):
            self.world.network.carry(data, self.endpoint, to)


class World:
    """Two ends and the network between them, which loses no packets, but handshakes on demand."""

    def __init__(self, seed: int, engine: type[LinuxSad | OurEngine]) -> None:
        self.heap = EventHeap(NOW)
        self.network = Network(self.heap, Uniform(0.001, LATEST_S), Random(seed))
        self.network.impose(drop(self._is_lost))
        self.sent = 0
        self.to_lose, self.lost_at = 0, -math.inf
        self.ends = [End(self, number, seed + number, engine) for number in range(2)]
        for end in self.ends:
            self.network.attach(end)
        self.connect()

    @property
    def now(self) -> float:
        return self.heap.now

    @property
    def opened(self) -> int:
        return sum(end.opened for end in self.ends)

    def may_lose(self) -> bool:
        """Three datagrams of a handshake at most: a node that loses more has lost its peer."""
        return not self.to_lose and self.now > self.lost_at + SETTINGS.handshake_timeout_s

    def _is_lost(self, flight: Flight) -> bool:
        if isinstance(flight.datagram, Sealed) or not self.to_lose:
            return False
        self.to_lose, self.lost_at = self.to_lose - 1, self.now
        return True

    def connect(self) -> None:
        peer = LinkPeer(IDENTITIES[1].overlay_address, IDENTITIES[1].link_key, ENDPOINTS[1])
        self.ends[0].links.connect(peer, self.now)
        while not all(end.engine.can_send() for end in self.ends):
            self.run(LATEST_S)

    def send(self, number: int, size: int) -> None:
        """Seal one packet with what the engine chooses, and send it."""
        self.sent += 1
        sealed = self.ends[number].engine.seal(size, self.now)
        self.network.carry(sealed, ENDPOINTS[number], ENDPOINTS[1 - number])

    def run(self, seconds: float) -> None:
        for end in self.ends:
            end.settle(self.now)
        run_with_deadlines(self.heap, self.now + seconds, lambda: self.ends)

    def land(self) -> None:
        """Go on until every packet has arrived."""
        self.run(LATEST_S)


class Continuity(RuleBasedStateMachine):
    """Traffic of any kind, at any time, over a network that reorders and loses handshakes."""

    world: World

    @initialize(seed=st.integers(0, 2**32), engine=st.sampled_from([LinuxSad, OurEngine]))
    def begin(self, seed: int, engine: type[LinuxSad | OurEngine]) -> None:
        self.world = World(seed, engine)

    @rule(number=st.integers(0, 1), packets=st.integers(1, 80), size=st.integers(40, 1400))
    def burst(self, number: int, packets: int, size: int) -> None:
        for _ in range(packets):
            self.world.send(number, size)

    @rule(
        packets=st.integers(1, 150),
        size=st.sampled_from([60, 400, 1400]),
        seconds=st.floats(0.05, 4.0),
    )
    def both_ways(self, packets: int, size: int, seconds: float) -> None:
        for _ in range(packets):
            for number in range(2):
                self.world.send(number, size)
            self.world.run(seconds / packets)

    @rule(seconds=st.floats(0.01, 40.0))
    def rest(self, seconds: float) -> None:
        self.world.run(seconds)

    @precondition(lambda self: self.world.may_lose())
    @rule(datagrams=st.integers(1, 3))
    def lose_handshakes(self, datagrams: int) -> None:
        self.world.to_lose = datagrams

    @invariant()
    def few_are_held(self) -> None:
        if hasattr(self, "world"):
            for end in self.world.ends:
                inbound, outbound = end.engine.held_by_direction()
                assert inbound <= MAX_OLD_PAIRS + 2
                assert outbound <= 3, "a crossing may change it twice"

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.land()
            assert self.world.sent == self.world.opened


Continuity.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestContinuity = pytest.mark.slow(Continuity.TestCase)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [LinuxSad, OurEngine])
def test_a_stream_one_way_and_bursts_the_other_meet_many_changes_and_lose_nothing(
    engine: type[LinuxSad | OurEngine],
) -> None:
    """A burst wears the newest SA out, and would go on with older ones if they were there."""
    world = World(5, engine)
    for _ in range(12):
        for _ in range(70):
            world.send(0, 100)
            world.run(0.02)
        for _ in range(300):
            world.send(1, 60)
        world.run(0.1)
    world.land()
    assert world.sent == world.opened == 12 * 370
    assert min(len(end.installed) for end in world.ends) > 10
