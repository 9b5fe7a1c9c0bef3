"""Nodes with a Links core each, on a network whose hops and times tests choose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import Random

from overlay.addresses import Endpoint
from overlay.identity import LocalIdentity
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkEvent,
    LinkFailed,
    LinkKeys,
    LinkPeer,
    LinkSaRemoved,
    LinkSaRetired,
    LinkSizeFound,
)
from overlay.link.links import Links
from overlay.link.settings import LinkSettings
from overlay.work_budget import WorkBudget
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.latency import Constant

NOW = 1_800_000_000.0
FRAME_BYTES = 5


class Host:
    """One node: its core, its endpoint, and the SAs that its events told it to install."""

    def __init__(self, number: int, settings: LinkSettings | None = None, seed: int = 0) -> None:
        self.index, self.lab = number, Lab()
        self.identity = LocalIdentity.generate(Random(1000 + number))
        self.endpoint = Endpoint(f"8.8.{number}.1", 4500)
        self.settings = settings or LinkSettings()
        self.spis = count(1000 * (number + 1))
        self.free: set[int] = set()
        self.budget: WorkBudget | None = None
        self.behind_nat = False
        self.probes_sizes = False
        self.datagram_bytes = 0
        self.restart(seed + number)

    def restart(self, seed: int) -> None:
        self.links = Links(
            self.identity,
            "lab",
            self.settings,
            Random(seed),
            lambda: next(self.spis),
            self.free.add,
            budget=self.budget,
            local_endpoint=lambda peer: None if self.behind_nat else self.endpoint,
            probes_sizes=self.probes_sizes,
        )
        self.log: list[LinkEvent] = []
        self.pairs: dict[int, LinkKeys] = {}
        self.usable: dict[int, LinkKeys] = {}

    def arrived(self, item: tuple[bytes, Endpoint]) -> None:
        self.links.receive([item], self.lab.heap.now)

    def next_deadline(self) -> float:
        return self.links.next_deadline()

    def handle_deadline(self, now: float) -> None:
        self.links.handle_deadline(now)
        self.lab.handled = True

    @property
    def peer(self) -> LinkPeer:
        return LinkPeer(self.identity.overlay_address, self.identity.link_key, self.endpoint)

    def take_events(self) -> list[LinkEvent]:
        events = self.links.events()
        for event in events:
            self.log.append(event)
            if isinstance(event, LinkEstablished):
                self.pairs[event.keys.inbound_spi] = event.keys
                if event.usable:
                    self.usable[event.keys.inbound_spi] = event.keys
            elif isinstance(event, LinkSaRetired):
                assert len(self.usable) > 1
                del self.usable[event.inbound_spi]
            elif isinstance(event, LinkSaRemoved):
                del self.pairs[event.inbound_spi]
                self.usable.pop(event.inbound_spi, None)
            elif isinstance(event, LinkClosed):
                self.pairs.clear()
                self.usable.clear()
            elif isinstance(event, LinkSizeFound):
                self.datagram_bytes = event.datagram_bytes
            else:
                assert isinstance(event, LinkFailed)
        return events


def everything(_: bytes) -> bool:
    return True


class Lab:
    """Hosts on a network without delay. ``step`` carries what is queued one hop."""

    def __init__(self, *hosts: Host) -> None:
        self.heap = EventHeap(NOW)
        self.network = Network(self.heap, Constant(0.0), Random("network"))
        self.hosts: list[Host] = []
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.line_bytes = 1472
        self.handled = False
        for host in hosts:
            self.attach(host)

    def attach(self, host: Host) -> None:
        host.lab = self
        self.hosts.append(host)
        self.network.attach(host)

    def detach(self, host: Host) -> None:
        self.hosts.remove(host)
        self.network.crash(host)

    def move(self, host: Host, endpoint: Endpoint) -> None:
        """Give a host another address."""
        self.detach(host)
        host.endpoint = endpoint
        self.attach(host)

    def step(self, now: float, keep: Callable[[bytes], bool] = everything) -> int:
        """Carry what is queued, if ``keep`` takes it; return the number of datagrams."""
        assert now >= self.heap.now
        self.heap.pass_to(now)
        for host in self.hosts:
            host.take_events()
            for data, target in host.links.datagrams_to_send(now):
                self.sent.append((data, host.endpoint, target))
                if keep(data):
                    self.network.carry(data, host.endpoint, target)
            for data, target in host.links.whole_datagrams_to_send():
                if len(data) + FRAME_BYTES <= self.line_bytes:
                    self.network.carry(data, host.endpoint, target)
        moved = len(self.heap)
        self.heap.run(now)
        return moved

    def settle(self, now: float, keep: Callable[[bytes], bool] = everything) -> None:
        """Carry datagrams until none is queued."""
        while self.step(now, keep):
            pass

    def run(self, now: float, until: float, keep: Callable[[bytes], bool] = everything) -> float:
        """Settle, then follow the deadlines up to ``until``; returns ``until``."""
        self.settle(now, keep)
        while run_with_deadlines(self.heap, until, self._hosts_on_time, lambda: self.handled):
            self.handled = False
            self.settle(self.heap.now, keep)
        return until

    def _hosts_on_time(self) -> list[Host]:
        assert min(host.next_deadline() for host in self.hosts) >= self.heap.now
        return self.hosts


def mirrored(alice: Host, bob: Host) -> bool:
    """Tell whether both hosts use the same single pair, inbound of one = outbound of other."""
    if len(alice.usable) != 1 or len(bob.usable) != 1:
        return False
    a, b = next(iter(alice.usable.values())), next(iter(bob.usable.values()))
    return (
        a.suite == b.suite
        and (a.inbound_spi, a.inbound_keymat) == (b.outbound_spi, b.outbound_keymat)
        and (b.inbound_spi, b.inbound_keymat) == (a.outbound_spi, a.outbound_keymat)
    )
