"""New keys while packets flow: nothing lost, nothing out of order, nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from apm_lab import BOB_V4, Host, Net, lab_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.addresses import Endpoint
from overlay.apm.circuit_table import OpenCircuit
from overlay.apm.events import CircuitOpened, CircuitState
from overlay.apm.retired_sas import MAX_RETIRED
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.selection.selector import MixPath
from sims.world.engine.conditions import Flight, drop, duplicate, share
from sims.world.latency import Constant, Uniform

BOB = BOB_V4.network_address.packed
EVERY_S = 0.01


class TracedNet(Net):
    """Knows which data packet each datagram carries, hence which the network lost."""

    def __init__(self, names: Sequence[str], **more: object) -> None:
        super().__init__(names, **more)  # type: ignore[arg-type]
        self.carried: dict[bytes, bytes] = {}
        self.lost: set[bytes] = set()
        self.lossy = lambda: False
        self.network.impose(drop(self._loses))
        self._carrying = b""

    def _loses(self, flight: Flight) -> bool:
        if not self.lossy():
            return False
        self.lost.add(self.carried.get(flight.datagram, b""))
        return True

    def inject(self, name: str, packet: bytes) -> None:
        self._carrying = packet
        super().inject(name, packet)
        self._carrying = b""

    def deliver(self, host: Host, item: tuple[bytes, Endpoint]) -> None:
        self._carrying = self.carried.get(item[0], b"")
        super().deliver(host, item)
        self._carrying = b""

    def send(self, sender: Host, datagrams: Sequence[tuple[bytes, Endpoint]]) -> None:
        if self._carrying:
            self.carried.update((data, self._carrying) for data, _ in datagrams)
        super().send(sender, datagrams)

    def pump(self, host: Host) -> None:
        self._carrying = b""
        super().pump(host)


def numbered(source: bytes, destination: bytes, number: int, size: int = 4) -> bytes:
    header = IP(src=".".join(map(str, source)), dst=".".join(map(str, destination)))
    payload = number.to_bytes(4, "big").ljust(size, b"\0")
    return bytes(header / UDP(sport=1, dport=2) / Raw(payload))


class Flow:
    """A circuit over ``hops`` hops with numbered packets in both directions."""

    def __init__(self, net: TracedNet, hops: int) -> None:
        self.net, self.hops = net, hops
        names = [f"mix{i}" for i in range(1, hops + 1)]
        self.alice, self.exit = net["alice"], net[names[-1]]
        self.number = net.open("alice", names)
        net.run(1)
        [opened] = self.alice.events_of(CircuitOpened)
        self.inner = opened.inner_addresses.ipv4 or b""
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])

    def circuit(self) -> OpenCircuit:
        circuit = self.alice.manager.inspection().own_circuit(self.number)
        assert isinstance(circuit, OpenCircuit)
        return circuit

    def generations(self) -> list[int]:
        return [sas.generation for sas in self.circuit().ipsec.hops]

    def run(self, packets: int) -> None:
        for number in range(packets):
            there = numbered(self.inner, BOB, number)
            back = numbered(BOB, self.inner, number)
            self.sent[0].append(there)
            self.sent[1].append(back)
            self.net.inject("alice", there)
            self.net.inject(self.exit.name, back)
            self.net.run(EVERY_S)
            self.check_sizes()
        self.net.run(1)

    def check_sizes(self) -> None:
        """In use, new, and replaced; only the outbound ones of the source go sooner."""
        for host in self.net.hosts.values():
            pairs = self.hops if host is self.alice else 1
            count = host.engine.association_counts()["onion SAs"]
            assert count <= 2 * pairs * (2 + MAX_RETIRED)

    def arrived(self) -> tuple[list[bytes], list[bytes]]:
        return self.exit.to_exit, self.alice.to_host

    def close(self) -> None:
        """And nothing of it remains on any host."""
        self.net.lossy = lambda: False
        self.alice.manager.close(self.number, self.net.now)
        self.net.pump(self.alice)
        self.net.run(3)
        for host in self.net.hosts.values():
            assert host.manager.inspection().exchanges == 0
            assert host.is_empty(), host.name


def names_of(hops: int) -> list[str]:
    return ["alice", *[f"mix{i}" for i in range(1, hops + 1)]]


def rekeying(**changed: object) -> ApmSettings:
    return lab_settings(
        **{"rekey_after_packets": 40, "rekey_spread_s": 0.3, "rekey_pause_s": 0.01, **changed}
    )


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(0, 2**32), st.floats(0.0001, 0.02))
@example(3, 1, 0.01)
@settings(deadline=None, max_examples=8)
def test_without_loss_every_packet_arrives_once_and_in_order(
    hops: int, seed: int, delay: float
) -> None:
    net = TracedNet(names_of(hops), seed=seed, settings=rekeying(), latency=Constant(delay))
    flow = Flow(net, hops)
    flow.run(300)
    assert min(flow.generations()) >= 3
    assert flow.arrived() == flow.sent
    for host in net.hosts.values():
        assert host.engine.drops() == {}
    flow.close()


@pytest.mark.slow
@given(st.integers(1, 3), st.integers(0, 2**32), st.floats(0.0, 0.15), st.floats(0.005, 0.1))
@settings(deadline=None, max_examples=12)
def test_with_hardship_nothing_is_lost_but_what_the_network_lost(
    hops: int, seed: int, loss: float, delay: float
) -> None:
    latency = Uniform(0.001, delay)
    net = TracedNet(names_of(hops), seed=seed, settings=rekeying(), latency=latency)
    flow = Flow(net, hops)
    net.lossy = lambda: net.rng.random() < loss
    net.network.impose(duplicate(share(1 / 3, net.rng)))
    flow.run(300)
    for sent, arrived in zip(flow.sent, flow.arrived(), strict=True):
        assert sorted(arrived) == sorted(packet for packet in sent if packet not in net.lost)
    net.lossy = lambda: False
    net.run(40)  # the longest pauses, and what lingers
    assert min(flow.generations()) >= 1
    assert flow.circuit()
    flow.close()


@pytest.mark.slow
def test_a_quiet_circuit_is_rekeyed_by_time_and_keeps_one_generation() -> None:
    net = TracedNet(names_of(3), settings=lab_settings(rekey_after_s=100.0))
    flow = Flow(net, 3)
    counts = []
    for _ in range(100):
        net.run(10)
        counts.append(sizes(net))
    assert 8 <= min(flow.generations()) <= max(flow.generations()) <= 13
    for pairs, counted in zip((3, 1, 1, 1), zip(*counts, strict=True), strict=True):
        assert min(counted) == 2 * pairs, "one generation when nothing lingers"
        assert max(counted) <= 4 * pairs
    flow.close()


def sizes(net: Net) -> list[int]:
    return [host.engine.association_counts()["onion SAs"] for host in net.hosts.values()]


@pytest.mark.slow
def test_every_hop_is_rekeyed_soon_after_the_confirmation_at_a_time_of_its_own() -> None:
    starts: list[list[int]] = []
    for seed in range(12):
        net = TracedNet(names_of(3), seed=seed)
        flow = Flow(net, 3)
        order: list[int] = []
        for _ in range(80):
            net.run(0.05)
            new = [i for i, g in enumerate(flow.generations()) if g and i not in order]
            order += new
        assert flow.generations() == [1, 1, 1]
        starts.append(order)
    assert len({tuple(order) for order in starts}) > 3, "the order must not tell the position"


@pytest.mark.slow
def test_3des_carries_far_more_than_one_key_may() -> None:
    """Suite 11 may seal 8 MiB with a key; this is three times as much."""

    class Experiment(TracedNet):
        def _make(self, name: str, index: int, each: object) -> Host:
            host = super()._make(name, index, each)
            host.engine = UserspaceEngine(rng=self.rng, experiment=True)
            host.manager = SignallingManager(
                host.identity, host.engine, host.spis, each, self.rng, host.pool, True
            )
            return host

        def path(self, *names: str) -> MixPath:
            hops = super().path(*names).hops
            return MixPath(tuple(replace(hop, esp_suites=(11,)) for hop in hops))

    net = Experiment(names_of(1), settings=lab_settings(esp_suite=11))
    flow = Flow(net, 1)
    total = 3 * SUITES[11].max_payload_bytes
    sent = [numbered(flow.inner, BOB, number, size=32_000) for number in range(total // 32_000)]
    for packet in sent:
        net.inject("alice", packet)
        net.run(0.001)
    net.run(1)
    assert flow.exit.to_exit == sent
    assert flow.generations()[0] >= 4
    assert net["mix1"].engine.drops() == net["alice"].engine.drops() == {}
    flow.close()


@pytest.mark.slow
def test_traffic_goes_on_in_order_and_the_circuit_stays_open() -> None:
    net = TracedNet(names_of(2), settings=rekeying())
    flow = Flow(net, 2)
    flow.run(120)
    assert min(flow.generations()) >= 2
    assert flow.arrived() == flow.sent
    [report] = flow.alice.manager.circuits()
    assert report.state is CircuitState.OPEN
    flow.close()
