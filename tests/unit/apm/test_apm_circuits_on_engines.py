"""Several managers, each with a real userspace engine, on an in-memory network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from apm_lab import BOB_V4, BOB_V6, Host, Net, lab_settings
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from overlay.apm.events import (
    CircuitEnd,
    CircuitFailed,
    CircuitLost,
    CircuitOpened,
    CircuitState,
    ExitCircuitClosed,
    ExitCircuitOpened,
)
from overlay.errors import CircuitRefused, CircuitTimedOut
from overlay.ipsec.interface import Drop
from sims.world.engine.conditions import Flight, drop, duplicate, share, tap
from sims.world.latency import Uniform


def mixes(count: int) -> list[str]:
    return [f"mix{i}" for i in range(1, count + 1)]


def opened(host: Host) -> CircuitOpened:
    events = [event for event in host.events if isinstance(event, CircuitOpened)]
    assert len(events) == 1
    return events[0]


def failed(host: Host) -> CircuitFailed:
    events = [event for event in host.events if isinstance(event, CircuitFailed)]
    assert len(events) == 1
    return events[0]


def v4(source: bytes, destination: bytes, payload: bytes) -> bytes:
    header = IP(src=".".join(map(str, source)), dst=".".join(map(str, destination)))
    return bytes(header / UDP(sport=1, dport=2) / Raw(payload))


def v6(source: str, destination: str, payload: bytes) -> bytes:
    return bytes(IPv6(src=source, dst=destination) / UDP(sport=1, dport=2) / Raw(payload))


def close_and_check(net: Net, source: str, number: int) -> None:
    net[source].manager.close(number, net.now)
    net.pump(net[source])
    net.run(3)
    check_empty(net)


def check_empty(net: Net) -> None:
    for host in net.hosts.values():
        assert host.manager.circuits() == []
        report = host.manager.relay_report()
        assert (report.relayed, report.exits, report.waiting, report.closing) == (0, 0, 0, 0)
        assert host.is_empty(), host.name


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_circuit_opens_carries_ipv4_both_ways_pings_and_leaves_nothing(length: int) -> None:
    net = Net(["alice", *mixes(length)], seed=length)
    number = net.open("alice", mixes(length))
    net.run(25)
    alice, exit_node = net["alice"], net[f"mix{length}"]
    inner = opened(alice).inner_addresses.ipv4
    assert inner is not None
    [report] = alice.manager.circuits()
    assert report.state is CircuitState.OPEN
    assert report.rtt_s == pytest.approx(0.02 * length, abs=1e-5)

    request = v4(inner, BOB_V4.network_address.packed, b"to bob")
    net.inject("alice", request)
    net.run(1)
    assert exit_node.to_exit == [request]
    answer = v4(BOB_V4.network_address.packed, inner, b"from bob")
    net.inject(exit_node.name, answer)
    net.run(1)
    assert alice.to_host == [answer]
    close_and_check(net, "alice", number)
    assert [type(event) for event in exit_node.events if "Exit" in type(event).__name__] == [
        ExitCircuitOpened,
        ExitCircuitClosed,
    ]


@pytest.mark.parametrize("length", [1, 5])
def test_circuit_carries_ipv6_both_ways(length: int) -> None:
    net = Net(["alice", *mixes(length)], seed=length)
    number = net.open("alice", mixes(length), BOB_V6)
    net.run(2)
    inner = opened(net["alice"]).inner_addresses.ipv6
    assert inner is not None
    import ipaddress

    own, bob = str(ipaddress.ip_address(inner)), str(BOB_V6.network_address)
    net.inject("alice", v6(own, bob, b"to bob"))
    net.inject(f"mix{length}", v6(bob, own, b"from bob"))
    net.run(1)
    assert net[f"mix{length}"].to_exit == [v6(own, bob, b"to bob")]
    assert net["alice"].to_host == [v6(bob, own, b"from bob")]
    close_and_check(net, "alice", number)


def test_no_datagram_of_signalling_exceeds_1200_bytes() -> None:
    net = Net(["alice", *mixes(5)])
    net.open("alice", mixes(5))
    net.run(15)
    assert opened(net["alice"])
    assert max(net.datagram_sizes) <= 1200


def test_relay_sees_only_its_neighbours_links() -> None:
    net = Net(["alice", *mixes(4)])
    net.open("alice", mixes(4))
    net.run(5)
    for left, host, right in (("alice", "mix1", "mix2"), ("mix1", "mix2", "mix3")):
        assert set(net[host].links) == {net[left].address, net[right].address}


def test_source_is_exit_and_relay_for_others_at_the_same_time() -> None:
    net = Net(["alice", "mix1", "mix2"])
    first = net.open("alice", ["mix1", "mix2"])
    second = net.open("mix1", ["mix2", "alice"])
    third = net.open("mix2", ["alice"])
    net.run(12)
    for name, number in (("alice", first), ("mix1", second), ("mix2", third)):
        [report] = net[name].manager.circuits()
        assert report.state is CircuitState.OPEN
        net[name].manager.close(number, net.now)
        net.pump(net[name])
    net.run(3)
    check_empty(net)


@pytest.mark.slow
def test_twenty_circuits_share_links_and_do_not_disturb_each_other() -> None:
    net = Net(["alice", *mixes(3)])
    numbers = [net.open("alice", mixes(3)) for _ in range(20)]
    net.run(5)
    reports = net["alice"].manager.circuits()
    assert {report.state for report in reports} == {CircuitState.OPEN}
    assert len({report.inner_addresses for report in reports}) == 20
    net["alice"].manager.close(numbers[7], net.now)
    net.pump(net["alice"])
    net.run(40)
    assert len(net["alice"].manager.circuits()) == 19
    assert net["mix2"].manager.relay_report().relayed == 19
    net["alice"].manager.close_all(net.now)
    net.pump(net["alice"])
    net.run(3)
    check_empty(net)


@pytest.mark.parametrize("position", [1, 2, 3])
def test_refusal_by_limit_arrives_from_each_hop(position: int) -> None:
    full = {f"mix{position}": lab_settings(max_circuits=1)}
    net = Net(["alice", "carol", *mixes(3)], **full)
    busy = net.open("carol", [f"mix{position}"])
    net.run(2)
    net.open("alice", mixes(3))
    net.run(5)
    error = failed(net["alice"]).error
    assert isinstance(error, CircuitRefused)
    assert (error.hop, error.reason) == (position, "LIMIT")
    assert net["carol"].manager.circuits()[0].state is CircuitState.OPEN
    close_and_check(net, "carol", busy)


@pytest.mark.parametrize("position", [2, 3])
def test_unreachable_hop_is_reported_by_the_one_before(position: int) -> None:
    net = Net(["alice", *mixes(3)])
    net.refuse_links.add(net[f"mix{position}"].address)
    net.open("alice", mixes(3))
    net.run(20)
    error = failed(net["alice"]).error
    assert isinstance(error, CircuitRefused)
    assert (error.hop, error.reason) == (position - 1, "UNREACHABLE")
    check_empty(net)


def test_first_hop_that_is_gone_times_out() -> None:
    net = Net(["alice", "mix1"])
    net.crash("mix1")
    net.open("alice", ["mix1"])
    net.run(30)
    assert isinstance(failed(net["alice"]).error, CircuitTimedOut)
    assert net["alice"].is_empty()


@pytest.mark.parametrize("crashed", ["mix1", "mix2", "mix3"])
def test_circuit_through_a_relay_that_dies_is_lost_and_forgotten_everywhere(crashed: str) -> None:
    net = Net(["alice", *mixes(3)])
    net.open("alice", mixes(3))
    net.run(5)
    net.crash(crashed)
    net.run(120)
    losses = [event for event in net["alice"].events if isinstance(event, CircuitLost)]
    assert [loss.reason for loss in losses] == [CircuitEnd.UNANSWERED]
    for host in net.hosts.values():
        if host.alive:
            assert host.manager.relay_report().relayed + host.manager.relay_report().exits == 0
            assert host.is_empty(), host.name


def test_relay_that_notices_its_next_hop_gone_tells_the_source_at_once() -> None:
    net = Net(["alice", *mixes(3)])
    net.open("alice", mixes(3))
    net.run(5)
    net.crash("mix3")
    net.notice_crash(of="mix3", by="mix2")
    net.run(3)
    losses = [event for event in net["alice"].events if isinstance(event, CircuitLost)]
    assert [loss.reason for loss in losses] == [CircuitEnd.TORN_DOWN]
    for name in ("alice", "mix1", "mix2"):
        assert net[name].is_empty(), name


def test_stopping_exit_ends_its_circuits() -> None:
    net = Net(["alice", *mixes(3)])
    net.open("alice", mixes(3))
    net.run(5)
    net["mix3"].manager.close_all(net.now)
    net.pump(net["mix3"])
    net.run(3)
    assert any(isinstance(event, CircuitLost) for event in net["alice"].events)
    check_empty(net)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_circuit_survives_loss_duplication_and_reordering(seed: int) -> None:
    net = Net(["alice", *mixes(3)], seed=seed, latency=Uniform(0.005, 0.2))
    loss = net.network.impose(drop(share(0.15, net.rng)))
    net.network.impose(duplicate(share(1 / 3, net.rng)))
    number = net.open("alice", mixes(3))
    net.run(18)
    assert net["alice"].manager.circuits()[0].state is CircuitState.OPEN
    net.network.lift(loss)
    net.run(30)
    assert net["alice"].manager.circuits()[0].rtt_s is not None
    close_and_check(net, "alice", number)


def lose_nth(net: Net, sender: str, numbers: Sequence[int]) -> None:
    sent = itertools.count(1)
    net.network.impose(drop(lambda _: next(sent) in numbers), sender=net[sender])


@pytest.mark.parametrize("lost", [[1], [2], [1, 2], [2, 3]])
@pytest.mark.parametrize("sender", ["alice", "mix1", "mix2"])
def test_any_early_datagram_may_be_lost(sender: str, lost: list[int]) -> None:
    net = Net(["alice", "mix1", "mix2"])
    lose_nth(net, sender, lost)
    number = net.open("alice", mixes(2))
    net.run(10)
    assert opened(net["alice"])
    close_and_check(net, "alice", number)


def test_recorded_datagrams_played_back_open_nothing() -> None:
    net = Net(["alice", *mixes(2)])
    recorded: list[Flight] = []
    recording = net.network.impose(tap(recorded.append))
    number = net.open("alice", mixes(2))
    net.run(3)
    net.network.lift(recording)
    before = [host.manager.relay_report() for host in net.hosts.values()]
    hosts = list(net.hosts.values())
    for flight in recorded:
        net.deliver(hosts[flight.receiver], (flight.datagram, flight.source))
    net.run(1)
    assert [host.manager.relay_report() for host in net.hosts.values()] == before
    assert net["mix1"].engine.drops()[Drop.IN_STATE_SEQ_ERROR] > 0
    close_and_check(net, "alice", number)


def test_control_spoofed_by_a_middle_relay_does_not_reach_the_source() -> None:
    """mix1 seals what it likes in b1; only mix2 can speak as mix2."""
    from overlay.apm.control import Teardown, TeardownReason
    from overlay.apm.switchboard import control_packet

    net = Net(["alice", *mixes(2)])
    net.open("alice", mixes(2))
    net.run(3)
    circuit = net["mix1"].manager.inspection().of_others()[0]
    far = circuit.ipsec.far  # type: ignore[union-attr]
    forged = control_packet(net["mix2"].address, far, Teardown(TeardownReason.CLOSED))
    # As if mix1's engine had received it from mix2: FWD to C(1), hence into b1 and the link.
    engine = net["mix1"].engine
    net.send(net["mix1"], engine.process_outbound([forged], net.now).to_network)
    net.run(1)
    assert net["alice"].manager.circuits()[0].state is CircuitState.OPEN
    assert net["alice"].engine.drops() == {Drop.IN_TMPL_MISMATCH: 1}
