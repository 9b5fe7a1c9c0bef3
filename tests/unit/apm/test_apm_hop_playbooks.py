"""Figure 5 of the paper and what follows it, as playbooks of a hop: >> in, << out."""

from __future__ import annotations

import pytest
from apm_fakes import NOW, Actor, acks, control, controls, onions
from apm_lab import BOB_V4, BOB_V6
from apm_playbooks import at_relay, cast, finish, nears, path, pending, record_calls

from overlay.apm.control import (
    CircuitPing,
    CircuitPong,
    Confirm,
    Refuse,
    RefuseReason,
    Teardown,
    TeardownReason,
)
from overlay.apm.datagram import UdpDatagram
from overlay.apm.events import (
    ExitCircuitOpened,
    LinkWanted,
)
from overlay.apm.settings import ApmSettings


def test_figure_5_order_of_the_calls_at_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    _, mix1, mix2, onion = at_relay()
    calls = record_calls(mix1, monkeypatch)
    # >> apasm_receive_onion_msg()
    mix1.hears(onion)
    # <<
    assert calls == [
        "apasm_receive_onion_msg",
        "nesm_extract_onion_info",
        "nesm_decrypt_data",
        "soft state: HeldCircuit",
        "soft state: RelayedCircuit",
        "nitcm_request_ipsec_info",
        "nitcm_ipsec_translator",
        "enforcement",
        "apasm_send_onion_msg",
    ]
    [forwarded] = onions(mix1.sends())
    assert (forwarded.source, forwarded.destination) == (mix1.address, mix2.address)
    assert len(forwarded.payload) == len(onion.payload)
    assert mix1.manager.relay_report().relayed == 1
    assert mix1.event_names() == []


def test_figure_5_at_the_exit_confirms_with_an_inner_address() -> None:
    alice, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    mix2.hears(*onions(mix1.sends()))
    sent = mix2.sends()
    [confirm] = [message for message in controls(sent) if isinstance(message, Confirm)]
    assert mix2.manager.events() == [ExitCircuitOpened(confirm.inner_addresses)]
    assert confirm.inner_addresses.ipv6 is None
    [datagram] = [d for d in sent if controls([d])]
    assert (datagram.source, datagram.destination) == (mix2.address, nears(alice)[1])
    assert len(acks(sent)) == 1
    assert mix2.manager.relay_report().exits == 1


def test_exit_gives_the_family_of_the_destination() -> None:
    alice, mix1, _ = cast()
    alice.manager.anonymous_connection(path(mix1), BOB_V6, NOW)
    mix1.hears(*onions(alice.sends()))
    [confirm] = controls(mix1.sends())
    assert isinstance(confirm, Confirm)
    assert confirm.inner_addresses.ipv4 is None
    assert confirm.inner_addresses.ipv6 is not None


def test_exit_repeats_the_confirmation_until_the_source_speaks() -> None:
    alice, mix1, _ = cast()
    _, [onion] = pending(alice, mix1)
    mix1.hears(onion)
    times = []
    for _ in range(3):
        now = mix1.manager.next_deadline()
        mix1.manager.handle_deadline(now)
        times.append(now - NOW)
        assert isinstance(controls(mix1.sends())[-1], Confirm)
    assert times == [1.0, 3.0, 7.0]
    mix1.hears(control(nears(alice)[0], mix1.address, CircuitPing(b"12345678")), now=NOW + 8)
    assert controls(mix1.sends()) == [CircuitPong(b"12345678")]
    mix1.manager.handle_deadline(NOW + 15)
    assert controls(mix1.sends()) == []


def test_replayed_onion_is_dropped_without_an_acknowledgement() -> None:
    _, mix1, _, onion = at_relay()
    mix1.hears(onion)
    mix1.sends()
    # Under another message id: the carrier takes it for a new message.
    replayed = UdpDatagram(
        onion.source,
        onion.destination,
        onion.source_port,
        onion.destination_port,
        onion.payload[:1] + bytes(8) + onion.payload[9:],
    )
    mix1.hears(replayed)
    assert onions(mix1.sends()) == []
    report = mix1.manager.relay_report()
    assert report.relayed == 1
    assert {drop.name: count for drop, count in report.drops.items()} == {"REPLAYED": 1}


def test_duplicated_fragment_is_no_replay() -> None:
    _, mix1, _, onion = at_relay()
    mix1.hears(onion, onion)
    sent = mix1.sends()
    assert len(onions(sent)) == 1
    assert len(acks(sent)) == 2
    assert mix1.manager.relay_report().drops == {}


@pytest.mark.parametrize(("later", "name"), [(100_000.0, "REPLAYED"), (-100_000.0, "MALFORMED")])
def test_onion_of_another_time_is_dropped(later: float, name: str) -> None:
    _, mix1, _, onion = at_relay()
    mix1.hears(onion, now=NOW + later)
    report = mix1.manager.relay_report()
    assert (report.relayed, report.remembered_onions) == (0, 0)
    assert [drop.name for drop in report.drops] == [name]


def test_onion_over_an_unknown_link_is_neither_acknowledged_nor_read() -> None:
    _, _, mix2, onion = at_relay()
    stranger = Actor(77)
    mix2.hears(UdpDatagram(stranger.address, mix2.address, 6978, 6978, onion.payload))
    assert mix2.sends() == []


def refusal_at_exit(mix: Actor, alice: Actor) -> list[object]:
    mix.hears(*onions(alice.sends()))
    return list(controls(mix.sends()))


@pytest.mark.parametrize(
    ("actor", "hops", "reason"),
    [
        (Actor(2, exit_role=False), 1, RefuseReason.NOT_OFFERED),
        (Actor(2, relay=False), 2, RefuseReason.NOT_OFFERED),
    ],
)
def test_node_refuses_a_role_that_it_does_not_have(
    actor: Actor, hops: int, reason: RefuseReason
) -> None:
    alice, mix2 = Actor(1), Actor(3)
    alice.link_to(actor)
    actor.link_to(alice)
    alice.manager.anonymous_connection(path(*(actor, mix2)[:hops]), BOB_V4, NOW)
    assert refusal_at_exit(actor, alice) == [Refuse(reason)]


def test_refusing_hop_forgets_everything_after_its_last_words() -> None:
    alice, mix1, _ = cast(max_circuits=1)
    pending(alice, mix1)
    onion_of_first = onions(alice.sends())
    assert onion_of_first == []
    _, [second] = pending(alice, mix1)
    third_number, [third] = pending(alice, mix1)
    assert third_number
    mix1.hears(second)
    mix1.sends()
    before = (list(mix1.backend.installed), len(mix1.spis), len(mix1.pool))
    mix1.hears(third)
    assert Refuse(RefuseReason.LIMIT) in controls(mix1.sends())
    assert mix1.manager.relay_report().closing == 1
    mix1.manager.handle_deadline(NOW + 0.5)
    assert Refuse(RefuseReason.LIMIT) in controls(mix1.sends())
    mix1.manager.handle_deadline(NOW + 2.0)
    assert (mix1.backend.installed, len(mix1.spis), len(mix1.pool)) == before


def test_limit_per_neighbour_spares_other_neighbours() -> None:
    alice, mix1, _ = cast(max_circuits_per_neighbour=1)
    carol = Actor(8)
    carol.link_to(mix1)
    mix1.link_to(carol)
    for source in (alice, alice, carol):
        source.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
        mix1.hears(*onions(source.sends()))
    messages = controls(mix1.sends())
    assert [type(message) for message in messages] == [Confirm, Refuse, Confirm]


def test_full_replay_cache_drops_new_circuits() -> None:
    """A refusal needs the keys of the circuit, so that it must be remembered as well."""
    alice, mix1, _ = cast(max_replay_entries=1)
    for expected in ([Confirm], []):
        pending_number = alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
        assert pending_number
        mix1.hears(*onions(alice.sends()))
        assert [type(message) for message in controls(mix1.sends())] == expected


def test_onion_waits_for_the_link_to_the_next_hop() -> None:
    alice, mix1, mix2 = Actor(1), Actor(2), Actor(3)
    alice.link_to(mix1)
    mix1.link_to(alice)
    _, [onion] = pending(alice, mix1, mix2)
    mix1.hears(onion)
    [wanted] = mix1.manager.events()
    assert isinstance(wanted, LinkWanted)
    assert wanted.peer.overlay_address == mix2.address
    assert wanted.peer.link_key == mix2.identity.link_key
    assert (onions(mix1.sends()), mix1.manager.relay_report().waiting) == ([], 1)
    mix1.link_to(mix2)
    assert len(onions(mix1.sends())) == 1
    report = mix1.manager.relay_report()
    assert (report.waiting, report.relayed) == (0, 1)


@pytest.mark.parametrize("how", ["timeout", "link_lost"])
def test_unreachable_next_hop_is_refused(how: str) -> None:
    alice, mix1, mix2 = Actor(1), Actor(2), Actor(3)
    alice.link_to(mix1)
    mix1.link_to(alice)
    _, [onion] = pending(alice, mix1, mix2)
    mix1.hears(onion)
    mix1.sends()
    if how == "timeout":
        mix1.manager.handle_deadline(NOW + 8.0)
    else:
        mix1.manager.link_lost(mix2.address, NOW + 1.0)
    assert controls(mix1.sends()) == [Refuse(RefuseReason.UNREACHABLE)]
    finish(mix1, NOW + 10)
    assert (mix1.backend.installed, len(mix1.spis)) == ([], 0)
    assert not any(mix1.manager.uses_link(peer.address) for peer in (alice, mix2))


def test_onion_for_a_private_endpoint_is_refused_unless_allowed() -> None:
    alice, mix1, mix2 = Actor(1), Actor(2, ApmSettings()), Actor(3)
    alice.link_to(mix1)
    mix1.link_to(alice)
    pending_number, [onion] = pending(alice, mix1, mix2)
    assert pending_number
    mix1.hears(onion)
    assert mix1.event_names() == []
    assert controls(mix1.sends()) == [Refuse(RefuseReason.UNREACHABLE)]


def test_backend_that_refuses_at_a_relay_makes_it_refuse_or_stay_silent() -> None:
    _, mix1, _, onion = at_relay()
    mix1.backend.fail = True
    mix1.hears(onion)
    assert (onions(mix1.sends()), len(mix1.spis)) == ([], 0)
    assert mix1.manager.relay_report().relayed == 0


def test_next_hop_that_never_acknowledges_is_unreachable() -> None:
    alice, mix1, mix2 = cast(carrier_attempts=1)
    _, [onion] = pending(alice, mix1, mix2)
    mix1.hears(onion)
    mix1.sends()
    mix1.manager.handle_deadline(NOW + 0.5)
    assert controls(mix1.sends()) == [Refuse(RefuseReason.UNREACHABLE)]
    assert mix1.manager.relay_report().relayed == 0


def test_relay_answers_ping_and_obeys_teardown_of_its_source_alone() -> None:
    alice, mix1, mix2, onion = at_relay()
    mix1.hears(onion)
    mix1.sends()
    c0, c1 = nears(alice)
    mix1.hears(control(c0, mix1.address, CircuitPing(b"abcdefgh")))
    assert controls(mix1.sends()) == [CircuitPong(b"abcdefgh")]
    # The far address is the next hop's business: nothing said from it counts here.
    mix1.hears(control(c1, mix1.address, Teardown(TeardownReason.CLOSED)))
    mix1.hears(control(mix2.address, mix1.address, Teardown(TeardownReason.CLOSED)))
    assert mix1.manager.relay_report().relayed == 1
    mix1.hears(control(c0, mix1.address, Teardown(TeardownReason.CLOSED)))
    assert mix1.manager.relay_report().relayed == 0
    finish(mix1, NOW + 1)
    assert (mix1.backend.installed, len(mix1.spis)) == ([], 0)
