"""Nodes with a Links core each, on a network that tests deliver by hand."""

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

NOW = 1_800_000_000.0
FRAME_BYTES = 5


class Host:
    """One node: its core, its endpoint, and the SAs that its events told it to install."""

    def __init__(self, number: int, settings: LinkSettings | None = None, seed: int = 0) -> None:
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


class Lab:
    """Hosts by endpoint; ``step`` carries what is queued one hop, ``settle`` until quiet."""

    def __init__(self, *hosts: Host) -> None:
        self.hosts = {host.endpoint: host for host in hosts}
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.line_bytes = 1472

    def step(self, now: float, keep: Callable[[bytes], bool] = lambda data: True) -> int:
        moved = []
        for endpoint, host in self.hosts.items():
            host.take_events()
            for data, target in host.links.datagrams_to_send(now):
                self.sent.append((data, endpoint, target))
                if keep(data):
                    moved.append((data, endpoint, target))
            for data, target in host.links.whole_datagrams_to_send():
                if len(data) + FRAME_BYTES <= self.line_bytes:
                    moved.append((data, endpoint, target))
        for data, source, target in moved:
            if target in self.hosts:
                self.hosts[target].links.receive([(data, source)], now)
        return len(moved)

    def settle(self, now: float, keep: Callable[[bytes], bool] = lambda data: True) -> None:
        while self.step(now, keep):
            pass

    def run(
        self,
        now: float,
        until: float,
        keep: Callable[[bytes], bool] = lambda data: True,
    ) -> float:
        """Settle, then follow the deadlines up to ``until``; returns ``until``."""
        self.settle(now, keep)
        while (due := min(host.links.next_deadline() for host in self.hosts.values())) <= until:
            assert due >= now
            now = due
            for host in self.hosts.values():
                host.links.handle_deadline(now)
                assert host.links.next_deadline() > now
            self.settle(now, keep)
        return until


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
