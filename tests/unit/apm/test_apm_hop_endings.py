"""How circuits of other nodes end at a hop: unused, idle, too old, lost, or because it stops."""

from __future__ import annotations

from apm_fakes import NOW, Actor, acks, control, controls, onions
from apm_lab import BOB_V4, lab_settings
from apm_playbooks import at_relay, cast, finish, nears, path, pending

from overlay.apm.control import (
    CircuitPing,
    Teardown,
    TeardownReason,
)
from overlay.apm.datagram import UdpDatagram
from overlay.apm.events import (
    ExitCircuitClosed,
    ExitCircuitOpened,
)
from overlay.ipsec.interface import SaIdentity


def forward_identity(alice: Actor, mix: Actor, position: int) -> SaIdentity:
    sa = alice.backend.installed[0].associations[2 * (position - 1)]
    assert sa.destination == mix.address
    return sa.identity


def test_relay_forgets_an_unconfirmed_circuit() -> None:
    _, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    [forwarded] = onions(mix1.sends())
    mix2.hears(forwarded)
    mix1.hears(*acks(mix2.sends()))
    mix1.manager.handle_deadline(NOW + 29.9)
    assert mix1.manager.relay_report().relayed == 1
    mix1.manager.handle_deadline(NOW + 30.0)
    assert mix1.manager.relay_report().relayed == 0
    assert (mix1.backend.installed, len(mix1.spis)) == ([], 0)


def test_relay_keeps_a_used_circuit_and_forgets_an_idle_one() -> None:
    alice, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    [forwarded] = onions(mix1.sends())
    mix2.hears(forwarded)
    mix1.hears(*acks(mix2.sends()))
    forward = forward_identity(alice, mix1, 1)
    mix1.backend.used[forward] = NOW + 25
    mix1.manager.handle_deadline(NOW + 30)
    mix1.manager.handle_deadline(NOW + 84.9)
    assert mix1.manager.relay_report().relayed == 1
    mix1.backend.used[forward] = NOW + 80
    mix1.manager.handle_deadline(NOW + 85)
    assert mix1.manager.relay_report().relayed == 1
    mix1.manager.handle_deadline(NOW + 140)
    assert mix1.manager.relay_report().relayed == 0
    assert mix1.backend.installed == []


def test_exit_forgets_an_idle_circuit_and_takes_its_address_back() -> None:
    alice, mix1, _ = cast()
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    mix1.hears(control(nears(alice)[0], mix1.address, CircuitPing(b"abcdefgh")))
    mix1.backend.used[forward_identity(alice, mix1, 1)] = NOW
    assert len(mix1.pool) == 1
    mix1.manager.handle_deadline(NOW + 60)
    assert (len(mix1.pool), len(mix1.spis), mix1.backend.installed) == (0, 0, [])
    assert [type(e) for e in mix1.manager.events()] == [
        ExitCircuitOpened,
        ExitCircuitClosed,
    ]


def test_exit_tells_that_a_circuit_is_over_only_when_nothing_passes_any_more() -> None:
    """Else the host would track what its source still sends, long after all was forgotten."""
    alice, mix1, _ = cast()
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    mix1.hears(control(nears(alice)[0], mix1.address, CircuitPing(b"abcdefgh")))
    assert mix1.event_names() == ["ExitCircuitOpened"]
    mix1.hears(control(nears(alice)[0], mix1.address, Teardown(TeardownReason.CLOSED)))
    now = NOW
    while mix1.backend.installed:
        assert mix1.event_names() == []
        now += 0.5
        mix1.manager.handle_deadline(now)
    assert now > NOW
    assert mix1.event_names() == ["ExitCircuitClosed"]


def test_a_stopping_exit_tells_at_once_that_its_circuits_are_over() -> None:
    """It does not run when they have lingered."""
    alice, mix1, _ = cast()
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    mix1.manager.close_all(NOW)
    assert mix1.event_names() == ["ExitCircuitOpened", "ExitCircuitClosed"]


def test_hop_ends_a_circuit_whose_lifetime_is_over_and_says_so() -> None:
    alice, mix1, _ = cast(lifetime_s=20.0)
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    mix1.hears(control(nears(alice)[0], mix1.address, CircuitPing(b"abcdefgh")))
    mix1.backend.used[forward_identity(alice, mix1, 1)] = NOW + 19
    mix1.sends()
    mix1.manager.handle_deadline(NOW + 20)
    assert controls(mix1.sends()) == [Teardown(TeardownReason.EXPIRED)]


def test_hop_grants_no_more_than_its_own_lifetime() -> None:
    alice, mix1 = Actor(1), Actor(2, lab_settings(lifetime_s=10.0))
    alice.link_to(mix1)
    mix1.link_to(alice)
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    mix1.hears(control(nears(alice)[0], mix1.address, CircuitPing(b"abcdefgh")))
    mix1.sends()
    mix1.manager.handle_deadline(NOW + 10)
    assert controls(mix1.sends()) == [Teardown(TeardownReason.EXPIRED)]


def test_relay_tells_the_source_when_the_next_link_is_lost() -> None:
    _, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    mix1.sends()
    mix1.manager.link_lost(mix2.address, NOW + 1)
    assert controls(mix1.sends()) == [Teardown(TeardownReason.NEXT_HOP_LOST)]


def test_relay_forgets_at_once_when_the_previous_link_is_lost() -> None:
    alice, mix1, _, onion = at_relay()
    mix1.hears(onion)
    mix1.sends()
    mix1.manager.link_lost(alice.address, NOW + 1)
    assert (controls(mix1.sends()), mix1.backend.installed, len(mix1.spis)) == ([], [], 0)


def test_stopping_node_tells_sources_and_hops() -> None:
    _, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    mix1.manager.anonymous_connection(path(mix2), BOB_V4, NOW)
    mix1.sends()
    mix1.manager.close_all(NOW + 1)
    assert sorted(message.reason.name for message in controls(mix1.sends())) == [  # type: ignore[union-attr]
        "CLOSED",
        "SHUTDOWN",
    ]
    finish(mix1, NOW + 2)
    assert (mix1.backend.installed, len(mix1.spis)) == ([], 0)


def test_a_hop_that_processes_a_copy_too_late_sends_no_closing_message() -> None:
    alice, mix1, _ = cast()
    number, _ = pending(alice, mix1)
    alice.manager.close(number, NOW)
    assert len(controls(alice.sends())) == 1
    alice.manager.handle_deadline(NOW + 1.0)
    assert controls(alice.sends()) == [], "the hop may have forgotten the circuit when that arrives"
    assert alice.backend.installed
    alice.manager.handle_deadline(NOW + 2.0)
    assert (alice.backend.installed, len(alice.spis)) == ([], 0)


def test_too_many_partings_go_without_a_word_and_without_a_trace() -> None:
    alice, mix1, _ = cast(max_closing_circuits=1)
    numbers = [pending(alice, mix1)[0] for _ in range(3)]
    for number in numbers:
        alice.manager.close(number, NOW)
    assert len(controls(alice.sends())) == 1
    finish(alice, NOW)
    assert (alice.backend.installed, len(alice.spis)) == ([], 0)


def test_receive_never_raises_and_counts_what_it_drops() -> None:
    alice, mix1, _ = cast()
    packets = [b"", b"\x60", bytes(48), b"\xff" * 1200]
    alice.manager.receive(packets, NOW)
    alice.hears(UdpDatagram(mix1.address, alice.address, 1, 2, b""))
    alice.hears(UdpDatagram(mix1.address, alice.address, 6978, 6978, b""))
    alice.hears(UdpDatagram(mix1.address, alice.address, 6979, 6979, bytes(64)))
    alice.hears(UdpDatagram(bytes(16), bytes(16), 6979, 6979, bytes(64)))
    assert sum(alice.manager.relay_report().drops.values()) == 8
    assert alice.sends() == []
