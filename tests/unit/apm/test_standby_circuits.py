"""Standby circuits on real engines: a relay dies, and the inner address goes on."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from apm_lab import BOB_V4, BOB_V6, Host, Net, lab_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apm_circuits_on_engines import check_empty, opened, v4

from overlay.addresses import InnerAddress
from overlay.apm.circuit_table import ExitCircuit, OpenCircuit
from overlay.apm.control import CONTROL_PORT, Confirm, Move, Teardown, TeardownReason
from overlay.apm.datagram import parse_datagram
from overlay.apm.events import (
    CircuitClosed,
    CircuitEnd,
    CircuitLost,
    CircuitMoved,
    CircuitReport,
    CircuitStandsBy,
    CircuitState,
    ExitCircuitClosed,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.layer import IpVersions
from overlay.apm.switchboard import control_packet
from overlay.errors import BackendError, LimitReached, PathError
from overlay.ipsec.interface import IpsecConfiguration
from sims.world.engine.conditions import drop, duplicate, share

BOB = BOB_V4.network_address.packed
LENT_LINGER_S = lab_settings().lent_address_hold_s


class Scene:
    """Alice with an open circuit over mix1 and mix2, its standby over mix3, to the same exit."""

    def __init__(self, seed: int = 1, **settings: object) -> None:
        names = ["alice", "mix1", "mix2", "mix3", "exit"]
        self.net = Net(names, seed=seed, settings=lab_settings(**settings))
        self.alice, self.exit = self.net["alice"], self.net["exit"]
        self.number = self.net.open("alice", ["mix1", "mix2", "exit"])
        self.net.run(5)
        self.inner = opened(self.alice).inner_addresses.ipv4
        self.standby = self.stand_by("mix3", "exit")
        self.net.run(5)

    def stand_by(self, *names: str) -> int:
        path = self.net.path(*names)
        number = self.alice.manager.stand_by(self.number, path, self.net.now)
        self.net.pump(self.alice)
        return number

    def echo(self, seconds: float) -> tuple[int, float]:
        """Send to Bob every 20 ms, who answers; return the answers and the longest silence."""
        assert self.inner is not None
        begin = last = self.net.now
        longest, answers = 0.0, 0
        while self.net.now < begin + seconds:
            self.net.inject("alice", v4(self.inner, BOB, b"to bob"))
            self.net.run(0.02)
            for _ in self.drained(self.exit.to_exit):
                self.net.inject("exit", v4(BOB, self.inner, b"from bob"))
            for _ in self.drained(self.alice.to_host):
                answers += 1
                longest, last = max(longest, self.net.now - last), self.net.now
        return answers, max(longest, self.net.now - last)

    def drained(self, packets: list[bytes]) -> list[bytes]:
        taken = list(packets)
        packets.clear()
        return taken

    def moved(self) -> list[CircuitMoved]:
        return [event for event in self.alice.events if isinstance(event, CircuitMoved)]


@pytest.mark.slow
def test_a_standby_circuit_is_reported_and_carries_nothing() -> None:
    scene = Scene()
    assert scene.alice.events_of(CircuitStandsBy) == [CircuitStandsBy(scene.standby)]
    states = {report.number: report.state for report in scene.alice.manager.circuits()}
    assert states == {scene.number: CircuitState.OPEN, scene.standby: CircuitState.STANDBY}
    answers, _ = scene.echo(2)
    assert answers >= 95
    assert scene.moved() == []


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["mix1", "mix2"])
def test_a_dead_relay_costs_less_than_a_second_and_the_address_stays(dead: str) -> None:
    scene = Scene()
    scene.echo(2)
    scene.net.crash(dead)
    answers, longest = scene.echo(5)
    assert longest < 0.6, "below a second with what TCP adds"
    assert answers > 200
    [moved] = scene.moved()
    assert (moved.circuit, moved.to) == (scene.number, scene.standby)
    [report] = scene.alice.manager.circuits()
    assert (report.number, report.state) == (scene.standby, CircuitState.OPEN)
    assert report.inner_addresses is not None
    assert report.inner_addresses.ipv4 == scene.inner
    # The exit gave the standby's own address back, and no other.
    closed = [event.inner_addresses.ipv4 for event in scene.exit.events_of(ExitCircuitClosed)]
    assert len(closed) == 1
    assert scene.inner not in closed


@pytest.mark.slow
def test_what_took_over_ends_like_any_circuit_and_leaves_nothing() -> None:
    scene = Scene()
    scene.net.crash("mix1")
    scene.echo(3)
    scene.net.revive("mix1")
    scene.alice.manager.close(scene.standby, scene.net.now)
    scene.net.pump(scene.alice)
    scene.net.run(70)
    check_empty(scene.net)


@pytest.mark.slow
def test_a_second_standby_takes_over_from_the_first() -> None:
    scene = Scene()
    scene.net.crash("mix1")
    scene.echo(2)
    scene.number = scene.standby
    scene.standby = scene.stand_by("mix2", "exit")
    scene.net.run(3)
    scene.net.crash("mix3")
    _, longest = scene.echo(3)
    assert longest < 0.9, "a circuit at rest is looked at twice a second"
    assert [moved.to for moved in scene.moved()][1:] == [scene.standby]


@pytest.mark.slow
def test_if_the_exit_dies_both_circuits_are_lost_within_two_seconds() -> None:
    scene = Scene()
    scene.echo(1)
    scene.net.crash("exit")
    scene.echo(2)
    [lost] = scene.alice.events_of(CircuitLost)
    assert lost == CircuitLost(scene.number, CircuitEnd.UNANSWERED, silent_hop=3)
    assert CircuitClosed(scene.standby, CircuitEnd.CLOSED) in scene.alice.events
    assert scene.alice.manager.circuits() == []


@pytest.mark.slow
def test_the_link_to_the_first_hop_may_be_lost_too() -> None:
    scene = Scene()
    scene.net.crash("mix1")
    scene.net.notice_crash("mix1", by="alice")
    scene.echo(2)
    [moved] = scene.moved()
    assert moved.reason is CircuitEnd.LINK_LOST
    assert scene.echo(1)[0] >= 45


def state_of(scene: Scene, number: int) -> CircuitState:
    [state] = [each.state for each in scene.alice.manager.circuits() if each.number == number]
    return state


def inner_closed(scene: Scene) -> list[InnerAddress | None]:
    """Return the IPv4 inner addresses that the exit gave back."""
    return [event.inner_addresses.ipv4 for event in scene.exit.events_of(ExitCircuitClosed)]


@pytest.mark.slow
def test_the_exit_may_lose_its_link_before_the_source_notices_anything() -> None:
    """The relay may die while that link is being renewed; a source at rest asks every 10 s."""
    scene = Scene()
    scene.echo(2)
    scene.net.crash("mix2")
    scene.net.notice_crash("mix2", by="exit")
    answers, longest = scene.echo(2)
    assert longest < 0.9
    assert answers > 50
    assert [moved.to for moved in scene.moved()] == [scene.standby]
    assert opened_now(scene).inner_addresses is not None
    assert opened_now(scene).inner_addresses.ipv4 == scene.inner
    assert scene.inner not in inner_closed(scene)
    scene.net.revive("mix2")
    scene.alice.manager.close(scene.standby, scene.net.now)
    scene.net.pump(scene.alice)
    scene.net.run(70)
    check_empty(scene.net)


def opened_now(scene: Scene) -> CircuitReport:
    [report] = [
        each
        for each in scene.alice.manager.circuits()
        if each.state is CircuitState.OPEN and each.inner_addresses is not None
    ]
    return report


@pytest.mark.parametrize("end", ["time", "shutdown", "withdrawal"])
def test_inner_addresses_that_no_source_claims_are_given_back(end: str) -> None:
    scene = Scene()
    scene.alice.manager.close(scene.standby, scene.net.now)
    scene.net.pump(scene.alice)
    scene.net.run(5)
    scene.net.crash("alice")
    scene.net.notice_crash("mix2", by="exit")
    assert scene.inner not in inner_closed(scene)
    assert len(scene.exit.pool) == 1
    if end == "time":
        scene.net.run(LENT_LINGER_S + 1)
    elif end == "shutdown":
        scene.exit.manager.close_all(scene.net.now)
    else:
        scene.exit.manager.offer_exit(IpVersions.IPV6, scene.net.now)
    scene.net.pump(scene.exit)
    assert scene.inner in inner_closed(scene)
    assert len(scene.exit.pool) == 0


def ignore_circuit_control(hop: Host) -> None:
    """Let a hop drop what the sources of its circuits tell it, as a hostile one could."""
    receive = hop.manager.receive

    def receive_the_rest(packets: Sequence[bytes], now: float) -> None:
        control = (hop.address, CONTROL_PORT)
        datagrams = [(packet, parse_datagram(packet)) for packet in packets]
        receive([p for p, d in datagrams if (d.destination, d.destination_port) != control], now)

    hop.manager.receive = receive_the_rest  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_hop_that_agrees_to_no_new_keys_does_not_end_the_connections() -> None:
    scene = Scene(rekey_after_s=20.0, rekey_timeout_s=5.0)
    ignore_circuit_control(scene.net["mix1"])
    scene.net.run(10)
    answers, longest = scene.echo(8)
    assert longest < 0.2
    assert answers > 390
    [moved] = scene.moved()
    assert (moved.reason, moved.silent_hop) == (CircuitEnd.NOT_REKEYED, 1)
    assert opened_now(scene).number == scene.standby


def test_a_circuit_whose_keys_cannot_be_replaced_ends_without_a_standby() -> None:
    net = Net(["alice", "mix1", "exit"], settings=lab_settings(rekey_after_s=20.0))
    number = net.open("alice", ["mix1", "exit"])
    net.run(5)
    ignore_circuit_control(net["mix1"])
    net.run(60)
    lost = CircuitLost(number, CircuitEnd.NOT_REKEYED, silent_hop=1)
    assert net["alice"].events_of(CircuitLost) == [lost]


@pytest.mark.slow
def test_a_new_standby_takes_over_before_the_lifetime_of_a_circuit_ends() -> None:
    scene = Scene(lifetime_s=100.0)
    scene.net.run(70)  # in the last quarter
    assert CircuitClosed(scene.standby, CircuitEnd.EXPIRED) in scene.alice.events
    first, scene.standby = scene.number, scene.stand_by("mix3", "exit")
    answers, longest = scene.echo(4)
    assert longest < 0.2
    assert answers > 190
    scene.net.run(40)
    assert scene.echo(1)[0] >= 45, "the first circuit has ended"
    [moved] = scene.moved()
    assert moved == CircuitMoved(first, scene.standby, CircuitEnd.EXPIRED, None)
    assert opened_now(scene).number == scene.standby


def test_a_standby_that_outlives_the_circuit_takes_over_at_its_end() -> None:
    scene = Scene(lifetime_s=100.0)
    scene.net.run(40)
    scene.alice.manager.close(scene.standby, scene.net.now)
    scene.standby = scene.stand_by("mix3", "exit")
    scene.net.run(60)
    assert [moved.reason for moved in scene.moved()] == [CircuitEnd.EXPIRED]
    assert opened_now(scene).number == scene.standby


def test_a_circuit_without_a_standby_ends_with_its_lifetime() -> None:
    scene = Scene(lifetime_s=100.0)
    scene.net.run(110)
    assert scene.moved() == []
    assert scene.alice.manager.circuits() == []


@pytest.mark.slow
def test_a_standby_that_dies_costs_the_circuit_nothing() -> None:
    scene = Scene()
    scene.net.crash("mix3")
    answers, longest = scene.echo(20)
    assert longest < 0.2
    assert answers > 900
    [lost] = scene.alice.events_of(CircuitLost)
    assert lost.circuit == scene.standby


@pytest.mark.parametrize("end", ["link", "teardown"])
def test_a_standby_that_ends_while_it_takes_over_ends_the_lost_circuit(end: str) -> None:
    """Else the lost circuit would stay for ever: its timer has ended, and so has the move."""
    scene = Scene()
    scene.net.network.impose(drop(), sender=scene.alice)
    scene.alice.manager.link_lost(scene.net["mix1"].address, scene.net.now)
    assert state_of(scene, scene.standby) is CircuitState.STANDBY
    assert scene.alice.events_of(CircuitLost) == []
    if end == "link":
        scene.net.notice_crash("mix3", by="alice")
    else:
        tell_source(scene, scene.standby, 1, Teardown(TeardownReason.SHUTDOWN))
        scene.net.pump(scene.alice)
    assert {each.circuit for each in scene.alice.events_of(CircuitLost)} == {
        scene.number,
        scene.standby,
    }
    assert scene.alice.manager.circuits() == []


def test_circuits_over_one_first_hop_are_both_lost_with_its_link() -> None:
    net = Net(["alice", "mix1", "mix2", "mix3", "exit"])
    number = net.open("alice", ["mix1", "mix2", "exit"])
    net.run(3)
    net["alice"].manager.stand_by(number, net.path("mix1", "mix3", "exit"), net.now)
    net.pump(net["alice"])
    net.run(3)
    net.crash("mix1")
    net.notice_crash("mix1", by="alice")
    assert net["alice"].manager.circuits() == []
    assert number in {each.circuit for each in net["alice"].events_of(CircuitLost)}


@pytest.mark.slow
def test_a_host_that_refuses_the_moved_policies_keeps_no_address() -> None:
    scene = Scene()
    install = scene.alice.engine.install

    def refuse_policies_alone(configuration: IpsecConfiguration) -> None:
        if configuration.policies and not configuration.associations:
            raise BackendError("no memory")
        install(configuration)

    scene.alice.engine.install = refuse_policies_alone  # type: ignore[method-assign]
    scene.net.crash("mix1")
    scene.echo(4)
    scene.net.revive("mix1")
    assert [lost.circuit for lost in scene.alice.events_of(CircuitLost)] == [scene.standby]
    scene.net.run(90)
    check_empty(scene.net)


def test_a_standby_needs_an_open_circuit_and_its_exit() -> None:
    scene = Scene()
    now = scene.net.now
    with pytest.raises(LimitReached):
        scene.alice.manager.stand_by(scene.number, scene.net.path("mix3", "exit"), now)
    with pytest.raises(LimitReached):
        scene.alice.manager.stand_by(scene.standby, scene.net.path("mix3", "exit"), now)
    other = scene.net.open("alice", ["mix1", "mix3"])
    scene.net.run(2)
    with pytest.raises(PathError):
        scene.alice.manager.stand_by(other, scene.net.path("mix2", "exit"), now)


def test_a_guessed_ticket_moves_nothing() -> None:
    scene = Scene()
    circuit, before = exit_circuits(scene)[1], lent(scene)
    rng = Random(3)
    for _ in range(50):
        tell_exit(scene, circuit, Move(rng.randbytes(16)))
    scene.net.pump(scene.exit)
    assert lent(scene) == before
    assert scene.echo(1)[0] >= 45


def exit_circuits(scene: Scene) -> list[ExitCircuit]:
    found = scene.exit.manager.inspection().of_others()
    return [circuit for circuit in found if isinstance(circuit, ExitCircuit)]


def lent(scene: Scene) -> dict[int, InnerAddresses]:
    return {circuit.number: circuit.ipsec.inner_addresses for circuit in exit_circuits(scene)}


def tell_exit(scene: Scene, circuit: ExitCircuit, message: Move | Teardown) -> None:
    packet = control_packet(circuit.sas.near, scene.exit.address, message)
    scene.exit.manager.receive([packet], scene.net.now)


def tell_source(scene: Scene, number: int, position: int, message: Confirm | Teardown) -> None:
    """Let the hop at this position of an own circuit of Alice tell her something."""
    circuit = scene.alice.manager.inspection().own_circuit(number)
    assert isinstance(circuit, OpenCircuit)
    sas = circuit.ipsec.hops[position - 1]
    scene.alice.manager.receive([control_packet(sas.hop, sas.near, message)], scene.net.now)


@pytest.mark.parametrize("lie", ["addresses", "ticket", "own"])
def test_a_confirm_that_lies_moves_nothing(lie: str) -> None:
    """Both circuits are lost in the end, and the path is built anew over another exit."""
    scene = Scene()
    scene.net.network.impose(drop(), sender=scene.alice)
    scene.alice.manager.link_lost(scene.net["mix1"].address, scene.net.now)
    circuits = scene.alice.manager.inspection()
    primary, standby = circuits.own_circuit(scene.number), circuits.own_circuit(scene.standby)
    assert isinstance(primary, OpenCircuit)
    assert isinstance(standby, OpenCircuit)
    other = InnerAddresses(InnerAddress(bytes([100, 64, 9, 9])))
    confirm = {
        "addresses": Confirm(other, primary.ticket),
        "ticket": Confirm(primary.inner_addresses, bytes(16)),
        "own": Confirm(standby.inner_addresses, standby.ticket),
    }[lie]
    for _ in range(50):
        tell_source(scene, scene.standby, len(standby.path), confirm)
    assert scene.moved() == []
    scene.net.run(10)
    assert scene.moved() == []
    assert scene.number in {each.circuit for each in scene.alice.events_of(CircuitLost)}
    assert scene.alice.manager.circuits() == []


@pytest.mark.slow
def test_a_source_that_moves_among_its_circuits_holds_no_more_than_before() -> None:
    """Each MOVE ends one circuit, whatever IP versions, so a flood ends itself."""
    scene = Scene()
    for index in range(6):
        destination = (BOB_V4, BOB_V6)[index % 2]
        scene.net.open("alice", [f"mix{index % 3 + 1}", "exit"], destination)
        scene.net.run(2)
    tickets = [circuit.ticket for circuit in exit_circuits(scene)]
    rng = Random(5)
    while len(left := exit_circuits(scene)) > 1:
        for ticket in rng.sample(tickets, len(tickets)):
            circuit = rng.choice(exit_circuits(scene))
            tell_exit(scene, circuit, Move(ticket))
        assert len({tuple(each) for each in lent(scene).values()}) == len(exit_circuits(scene))
        assert len(exit_circuits(scene)) < len(left)
    scene.net.pump(scene.exit)
    scene.net.run(10)
    assert len(scene.exit.pool) == sum(len(list(each)) for each in lent(scene).values()) == 1
    for report in scene.alice.manager.circuits():
        scene.alice.manager.close(report.number, scene.net.now)
    scene.net.pump(scene.alice)
    scene.net.run(120)
    check_empty(scene.net)


def test_the_ticket_of_a_circuit_that_is_closing_moves_nothing() -> None:
    scene = Scene()
    first, second = exit_circuits(scene)
    tell_exit(scene, first, Teardown(TeardownReason.CLOSED))
    before = lent(scene)
    tell_exit(scene, second, Move(first.ticket))
    scene.net.pump(scene.exit)
    assert lent(scene) == before == {second.number: second.ipsec.inner_addresses}
    tell_exit(scene, first, Move(second.ticket))
    assert lent(scene) == before, "and a circuit that is closing gets nothing"


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16), loss=st.floats(0, 0.3), copies=st.integers(1, 2))
def test_moves_survive_loss_and_copies(seed: int, loss: float, copies: int) -> None:
    scene = Scene()
    rng = Random(seed)
    scene.net.network.impose(drop(share(loss, rng)))
    scene.net.network.impose(duplicate(copies=copies - 1))
    scene.net.crash("mix2")
    scene.echo(6)
    ended = scene.moved() or scene.alice.events_of(CircuitLost)
    assert ended
    scene.net.network.lift()
    for report in scene.alice.manager.circuits():
        scene.alice.manager.close(report.number, scene.net.now)
    scene.net.revive("mix2")
    scene.net.pump(scene.alice)
    scene.net.run(120)
    check_empty(scene.net)


def test_settings_bound_circuits_without_their_standbys() -> None:
    net = Net(["alice", "mix1", "mix2"], alice=lab_settings(max_source_circuits=1))
    first = net.open("alice", ["mix1", "mix2"])
    net.run(3)
    net["alice"].manager.stand_by(first, net.path("mix2"), net.now)
    net.pump(net["alice"])
    net.run(3)
    assert len(net["alice"].manager.circuits()) == 2
    with pytest.raises(LimitReached):
        net.open("alice", ["mix2"])
