"""Figures 4 and 5 of the paper, and what follows them, as playbooks: >> in, << out."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from apm_fakes import NOW, Actor, acks, control, controls, onions
from apm_lab import BOB_V4, BOB_V6, lab_settings

import overlay.apm.onion
import overlay.apm.plan
import overlay.apm.relay
import overlay.apm.source
from overlay.addresses import InnerAddress
from overlay.apm.carrier import OnionCarrier
from overlay.apm.circuit_table import CircuitTable
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
    CircuitClosed,
    CircuitEnd,
    CircuitFailed,
    CircuitLost,
    CircuitOpened,
    CircuitState,
    ExitCircuitClosed,
    ExitCircuitOpened,
    LinkSilent,
    LinkWanted,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.relay import RelayCircuits
from overlay.apm.settings import ApmSettings
from overlay.errors import (
    AddressInUse,
    BackendError,
    CircuitRefused,
    CircuitTimedOut,
    LimitReached,
    NoSuitablePath,
    PathError,
)
from overlay.ipsec.interface import SaIdentity
from overlay.link.security import LinkSecurity
from overlay.selection.selector import MixPath

TICKET = bytes(range(16))
INNER = InnerAddresses(ipv4=InnerAddress(bytes((100, 64, 3, 4))))


def cast(**settings: object) -> tuple[Actor, Actor, Actor]:
    # The exchange of new keys has playbooks of its own; here it begins years later.
    settings = {"rekey_spread_s": 3e7, **settings}
    alice, mix1, mix2 = (Actor(seed, lab_settings(**settings)) for seed in (1, 2, 3))
    alice.link_to(mix1)
    mix1.link_to(alice)
    mix1.link_to(mix2)
    mix2.link_to(mix1)
    return alice, mix1, mix2


def path(*hops: Actor) -> MixPath:
    return MixPath(tuple(hop.descriptor for hop in hops))


def pending(alice: Actor, *hops: Actor) -> tuple[int, list[UdpDatagram]]:
    """Alice has asked for a circuit and her onion has left."""
    number = alice.manager.anonymous_connection(path(*hops), BOB_V4, NOW)
    return number, onions(alice.sends())


def nears(alice: Actor) -> list[bytes]:
    return list(alice.backend.installed[0].local_addresses)


def record_calls(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write down what an actor calls of the paper's functions, by the paper's names."""
    calls: list[str] = []

    def watch(owner: object, name: str, called: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def recorded(*args: object, **kwargs: object) -> object:
            calls.append(called(*args))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    for owner, name, paper in (
        (actor.spis, "allocate", "nitcm_generate_spi"),
        (overlay.apm.plan, "nesm_generate_sym_key", "nesm_generate_sym_key"),
        (overlay.apm.source, "construct_onion", "nesm_construct_onion"),
        (overlay.apm.onion, "nesm_encrypt_data", "nesm_encrypt_data"),
        (RelayCircuits, "receive_onion_message", "apasm_receive_onion_msg"),
        (overlay.apm.relay, "extract_onion_info", "nesm_extract_onion_info"),
        (overlay.apm.onion, "nesm_decrypt_data", "nesm_decrypt_data"),
        (CircuitTable, "request_ipsec_info", "nitcm_request_ipsec_info"),
        (overlay.apm.source, "ipsec_translator", "nitcm_ipsec_translator"),
        (overlay.apm.relay, "ipsec_translator", "nitcm_ipsec_translator"),
        (actor.backend, "install", "enforcement"),
        (OnionCarrier, "send", "apasm_send_onion_msg"),
    ):
        watch(owner, name, lambda *_, paper=paper: paper)
    for name in ("put_source", "put_hop"):
        watch(CircuitTable, name, lambda _, circuit: f"soft state: {type(circuit).__name__}")
    calls.clear()
    return calls


# --- Figure 4: the source ---


def test_figure_4_order_of_the_calls_at_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, mix1, mix2 = cast()
    calls = record_calls(alice, monkeypatch)
    # >> apasm_anonymous_connection()
    number = alice.manager.anonymous_connection(path(mix1, mix2), BOB_V4, NOW)
    # <<
    assert calls == [
        "soft state: RequestedCircuit",  # until there is a link
        *["nitcm_generate_spi"] * 4,
        *["nesm_generate_sym_key"] * 2,
        "nesm_construct_onion",
        *["nesm_encrypt_data"] * 2,
        "soft state: PendingCircuit",
        "nitcm_request_ipsec_info",
        "nitcm_ipsec_translator",
        "enforcement",
        "apasm_send_onion_msg",
    ]
    [onion] = onions(alice.sends())
    assert (onion.source, onion.destination) == (alice.address, mix1.address)
    [report] = alice.manager.circuits()
    assert (report.number, report.state) == (number, CircuitState.AWAITING_CONFIRMATION)
    assert alice.event_names() == []


def test_figure_4_goes_on_when_the_first_link_is_up() -> None:
    alice, mix1 = Actor(1), Actor(2)
    alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
    [wanted] = alice.manager.events()
    assert isinstance(wanted, LinkWanted)
    assert wanted.peer.overlay_address == mix1.address
    assert wanted.peer.endpoint == mix1.endpoint
    assert alice.manager.circuits()[0].state is CircuitState.WAITING_FOR_LINK
    assert (alice.sends(), alice.log, len(alice.spis)) == ([], [], 0)
    alice.link_to(mix1)
    assert len(onions(alice.sends())) == 1
    assert alice.log == ["generate SPI", "generate SPI", "generate key", "install"]


def test_confirmation_installs_the_inner_policies_and_opens_the_circuit() -> None:
    alice, mix1, mix2 = cast()
    number, _ = pending(alice, mix1, mix2)
    near = nears(alice)
    # >> CONFIRM from the exit
    alice.hears(control(mix2.address, near[1], Confirm(INNER, TICKET)))
    # << second configuration, CircuitOpened, PING to the exit
    assert len(alice.backend.installed) == 2
    assert alice.backend.installed[1].local_addresses == (INNER.ipv4,)
    assert alice.manager.events() == [CircuitOpened(number, INNER, BOB_V4)]
    [ping] = [d for d in alice.sends() if (d.source, d.destination) == (near[1], mix2.address)]
    [message] = controls([ping])
    assert isinstance(message, CircuitPing)
    # >> PONG
    alice.hears(control(mix2.address, near[1], CircuitPong(message.echo)), now=NOW + 0.25)
    [report] = alice.manager.circuits()
    assert (report.state, report.rtt_s, report.opened_at) == (CircuitState.OPEN, 0.25, NOW)
    assert report.hops == (mix1.address, mix2.address)


def test_only_the_exit_can_confirm() -> None:
    alice, mix1, mix2 = cast()
    pending(alice, mix1, mix2)
    near = nears(alice)
    alice.hears(control(mix1.address, near[0], Confirm(INNER, TICKET)))
    alice.hears(control(mix1.address, near[1], Confirm(INNER, TICKET)))
    alice.hears(control(mix2.address, near[0], Confirm(INNER, TICKET)))
    assert alice.event_names() == []
    assert alice.manager.circuits()[0].state is CircuitState.AWAITING_CONFIRMATION
    assert sum(alice.manager.relay_report().drops.values()) == 3


def test_a_repeated_confirmation_gets_another_ping_and_changes_nothing() -> None:
    alice, mix1, _ = cast()
    pending(alice, mix1)
    confirm = control(mix1.address, nears(alice)[0], Confirm(INNER, TICKET))
    alice.hears(confirm)
    asked = list(controls(alice.sends()))
    for _ in range(10):
        alice.hears(confirm)
        asked += controls(alice.sends())
    echoes = [each.echo for each in asked if isinstance(each, CircuitPing)]
    assert len(set(echoes)) == 11, "each answer measures a round trip of its own"
    for echo in echoes:
        alice.hears(control(mix1.address, nears(alice)[0], CircuitPong(echo)))
    alice.hears(confirm)
    assert alice.sends() == []
    assert alice.event_names() == ["CircuitOpened"]
    assert alice.manager.relay_report().drops == {}, "all these answers were asked for"


def test_an_exit_that_repeats_its_confirmation_for_ever_gets_a_bounded_number_of_pings() -> None:
    alice, mix1, _ = cast()
    pending(alice, mix1)
    confirm = control(mix1.address, nears(alice)[0], Confirm(INNER, TICKET))
    alice.hears(*[confirm] * 200)
    assert len(controls(alice.sends())) <= 64


@pytest.mark.parametrize(
    "inner",
    [
        InnerAddresses(ipv6=InnerAddress(bytes.fromhex("fd77") + bytes(13) + b"\x01")),
        InnerAddresses(ipv4=InnerAddress(bytes((127, 0, 0, 1)))),
        InnerAddresses(ipv4=InnerAddress(bytes((192, 0, 2, 1)))),
        InnerAddresses(INNER.ipv4, InnerAddress(bytes.fromhex("fd636972") + bytes(12))),
    ],
)
def test_unusable_inner_address_fails_the_circuit_and_tears_it_down(inner: InnerAddresses) -> None:
    alice, mix1, _ = cast()
    number, _ = pending(alice, mix1)
    alice.hears(control(mix1.address, nears(alice)[0], Confirm(inner, TICKET)))
    failed, *_ = alice.manager.events()
    assert isinstance(failed, CircuitFailed)
    assert failed.circuit == number
    assert isinstance(failed.error, PathError)
    assert controls(alice.sends()) == [Teardown(TeardownReason.CLOSED)]


def test_inner_address_in_use_here_fails_with_a_clear_error() -> None:
    alice, mix1, mix2 = cast()
    pending(alice, mix1)
    alice.hears(control(mix1.address, nears(alice)[0], Confirm(INNER, TICKET)))
    alice.manager.events()
    alice.manager.anonymous_connection(path(mix1, mix2), BOB_V4, NOW)
    second = alice.backend.installed[-1].local_addresses
    alice.hears(control(mix2.address, second[1], Confirm(INNER, TICKET)))
    [failed] = [e for e in alice.manager.events() if isinstance(e, CircuitFailed)]
    assert "in use here" in str(failed.error)
    assert alice.manager.circuits()[0].state is CircuitState.OPEN


def confirmed(
    in_use: Callable[[bytes], bool], inner: InnerAddresses = INNER
) -> tuple[Actor, Actor]:
    """Alice, whose exit has just lent an address of which ``in_use`` decides."""
    settings = lab_settings(rekey_spread_s=3e7)
    alice, mix1 = Actor(1, settings, inner_in_use=in_use), Actor(2)
    alice.link_to(mix1)
    alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
    alice.sends()
    alice.hears(control(mix1.address, nears(alice)[0], Confirm(INNER, TICKET)))
    return alice, mix1


@pytest.mark.slow
def test_address_that_the_hosts_networks_use_is_not_taken_and_the_exit_is_not_told() -> None:
    alice, _ = confirmed(lambda packed: packed == INNER.ipv4)
    [failed] = [e for e in alice.manager.events() if not isinstance(e, LinkWanted)]
    assert isinstance(failed, CircuitFailed)
    assert isinstance(failed.error, AddressInUse)
    assert all(INNER.ipv4 not in i.local_addresses for i in alice.backend.installed)
    other, _ = confirmed(lambda _: False)
    # What the exit hears is what it hears from a source that took the address.
    assert [type(m) for m in controls(alice.sends())] == [type(m) for m in controls(other.sends())]
    ended_at = NOW
    while alice.manager.circuits():
        ended_at = alice.manager.next_deadline()
        alice.manager.handle_deadline(ended_at)
        sent = alice.sends(ended_at)
        for told in controls(sent):
            if isinstance(told, CircuitPing):
                alice.hears(control(sent[0].destination, nears(alice)[0], CircuitPong(told.echo)))
    assert NOW + 60 <= ended_at <= NOW + 600
    assert Teardown(TeardownReason.CLOSED) in controls(sent)


def test_circuits_without_a_use_are_few() -> None:
    alice, mix1 = confirmed(lambda _: True)
    for _ in range(10):
        alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
        near = alice.backend.installed[-1].local_addresses[0]
        alice.hears(control(mix1.address, near, Confirm(INNER, TICKET)))
    assert len(alice.manager.circuits()) == 4


def test_address_within_a_destination_of_ours_is_not_taken() -> None:
    alice, mix1 = Actor(1), Actor(2)
    alice.link_to(mix1)
    destination = ipaddress.ip_network("10.0.0.0/16")
    alice.manager.anonymous_connection(path(mix1), destination, NOW)
    inner = InnerAddresses(InnerAddress(bytes((10, 0, 7, 7))))
    alice.hears(control(mix1.address, nears(alice)[0], Confirm(inner, TICKET)))
    [failed] = [e for e in alice.manager.events() if isinstance(e, CircuitFailed)]
    assert isinstance(failed.error, AddressInUse)


@pytest.mark.parametrize("reason", RefuseReason)
@pytest.mark.parametrize("position", [1, 2])
def test_refusal_names_hop_and_reason_and_tears_down_the_hops_before(
    position: int, reason: RefuseReason
) -> None:
    alice, mix1, mix2 = cast()
    number, _ = pending(alice, mix1, mix2)
    near, hop = nears(alice)[position - 1], (mix1, mix2)[position - 1]
    alice.hears(control(hop.address, near, Refuse(reason)))
    failed = alice.manager.events()[0]
    assert isinstance(failed, CircuitFailed)
    assert failed.circuit == number
    assert isinstance(failed.error, CircuitRefused)
    assert (failed.error.hop, failed.error.reason) == (position, reason.name)
    told = [d.destination for d in alice.sends() if controls([d])]
    assert told == [mix1.address][: position - 1]
    assert alice.manager.circuits() == []


def test_silence_times_out_and_leaves_nothing() -> None:
    alice, mix1, _ = cast(link_timeout_s=1.0, carrier_attempts=20)
    pending(alice, mix1)
    while alice.manager.circuits():
        alice.manager.handle_deadline(alice.manager.next_deadline())
    silent, failed = alice.manager.events()
    assert silent == LinkSilent(mix1.address)
    assert isinstance(failed, CircuitFailed)
    assert isinstance(failed.error, CircuitTimedOut)
    finish(alice, NOW + 20.0)
    assert (alice.backend.installed, len(alice.spis)) == ([], 0)
    assert not alice.manager.uses_link(mix1.address)


def finish(actor: Actor, now: float) -> None:
    """Run the timers until nothing but replay and carrier memory is left."""
    for _ in range(20):
        now = min(max(now, actor.manager.next_deadline()), now + 2.0)
        actor.manager.handle_deadline(now)


def test_first_mix_node_that_acknowledges_nothing_fails_the_circuit() -> None:
    alice, mix1, _ = cast(carrier_attempts=2)
    pending(alice, mix1)
    alice.manager.handle_deadline(NOW + 0.5)
    assert len(onions(alice.sends())) == 1
    alice.manager.handle_deadline(NOW + 1.5)
    failed = alice.manager.events()[0]
    assert isinstance(failed, CircuitFailed)
    assert isinstance(failed.error, CircuitTimedOut)


def test_link_that_cannot_be_had_fails_the_circuit() -> None:
    alice, mix1 = Actor(1), Actor(2)
    alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
    alice.manager.link_lost(mix1.address, NOW + 1)
    assert alice.event_names() == ["LinkWanted", "CircuitFailed"]
    assert not alice.manager.uses_link(mix1.address)


def test_backend_that_refuses_fails_the_circuit_and_keeps_the_cause() -> None:
    alice, mix1, _ = cast()
    alice.backend.fail = True
    alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)
    failed = alice.manager.events()[0]
    assert isinstance(failed, CircuitFailed)
    assert isinstance(failed.error.__cause__, BackendError)
    assert (alice.sends(), len(alice.spis), alice.manager.circuits()) == ([], 0, [])


def test_backend_that_refuses_the_inner_policies_fails_the_circuit() -> None:
    alice, mix1, _ = cast()
    pending(alice, mix1)
    alice.backend.fail = True
    alice.hears(control(mix1.address, nears(alice)[0], Confirm(INNER, TICKET)))
    assert alice.event_names() == ["CircuitFailed"]
    assert controls(alice.sends()) == [Teardown(TeardownReason.CLOSED)]


def test_closing_tells_every_hop_the_farthest_first_and_removes_everything() -> None:
    alice, mix1, mix2 = cast()
    number, _ = pending(alice, mix1, mix2)
    alice.hears(control(mix2.address, nears(alice)[1], Confirm(INNER, TICKET)))
    alice.manager.events()
    alice.sends()
    alice.manager.close(number, NOW + 5)
    told = [d.destination for d in alice.sends()]
    assert told == [mix2.address, mix1.address]
    assert len(alice.backend.installed) == 1, "the data's policies go at once"
    alice.manager.handle_deadline(NOW + 5.5)
    assert len(controls(alice.sends())) == 2, "and once more, lest it was lost"
    alice.manager.handle_deadline(NOW + 6.9)
    assert (len(alice.backend.installed), controls(alice.sends())) == (1, []), (
        "a copy may be under way"
    )
    alice.manager.handle_deadline(NOW + 7.0)
    assert (alice.backend.installed, len(alice.spis)) == ([], 0)
    ended = [event for event in alice.manager.events() if not isinstance(event, LinkSilent)]
    assert ended == [CircuitClosed(number, CircuitEnd.CLOSED)]
    alice.manager.close(number, NOW + 7)
    assert alice.manager.events() == []


def open_circuit(alice: Actor, *hops: Actor) -> tuple[int, bytes]:
    number, _ = pending(alice, *hops)
    near = nears(alice)[len(hops) - 1]
    alice.hears(control(hops[-1].address, near, Confirm(INNER, TICKET)))
    alice.manager.events()
    return number, near


def test_unanswered_keepalive_loses_the_circuit() -> None:
    alice, mix1, _ = cast()
    number, _ = open_circuit(alice, mix1)
    lost = CircuitLost(number, CircuitEnd.UNANSWERED, silent_hop=1)
    while lost not in alice.manager.events():
        now = alice.manager.next_deadline()
        assert now <= NOW + 20
        alice.manager.handle_deadline(now)
    assert now >= NOW + 1.2, "a circuit has that long to answer, at least"


def test_answered_keepalive_keeps_the_circuit_until_its_lifetime_is_over() -> None:
    alice, mix1, _ = cast(lifetime_s=95.0)
    number, near = open_circuit(alice, mix1)
    for second in range(0, 95, 5):
        alice.manager.handle_deadline(NOW + second)
        for message in controls(alice.sends()):
            if isinstance(message, CircuitPing):
                alice.hears(control(mix1.address, near, CircuitPong(message.echo)))
    assert [e for e in alice.manager.events() if isinstance(e, CircuitLost)] == []
    alice.manager.handle_deadline(NOW + 95)
    assert CircuitClosed(number, CircuitEnd.EXPIRED) in alice.manager.events()


@pytest.mark.parametrize("position", [1, 2])
def test_teardown_by_a_hop_loses_the_circuit(position: int) -> None:
    alice, mix1, mix2 = cast()
    number, _ = open_circuit(alice, mix1, mix2)
    hop = (mix1, mix2)[position - 1]
    near = nears(alice)[position - 1]
    alice.hears(control(hop.address, near, Teardown(TeardownReason.NEXT_HOP_LOST)))
    lost_hop = position + 1 if position == 1 else position
    assert alice.manager.events() == [CircuitLost(number, CircuitEnd.TORN_DOWN, lost_hop)]


def test_lost_link_loses_the_circuit_at_once_and_silently() -> None:
    alice, mix1, _ = cast()
    number, _ = open_circuit(alice, mix1)
    alice.sends()
    alice.manager.link_lost(mix1.address, NOW + 1)
    assert alice.manager.events() == [
        CircuitLost(number, CircuitEnd.LINK_LOST, silent_hop=1),
    ]
    assert (alice.sends(), alice.backend.installed, len(alice.spis)) == ([], [], 0)


def test_moved_link_counts_as_lost_and_a_repeated_report_does_not() -> None:
    alice, mix1, _ = cast()
    open_circuit(alice, mix1)
    alice.link_to(mix1)
    assert alice.manager.events() == []
    moved = LinkSecurity(2, b"\1" * 4, b"\2" * 4)
    alice.manager.link_established(mix1.address, moved, NOW)
    assert "CircuitLost" in alice.event_names()


def test_own_circuits_are_bounded() -> None:
    alice, mix1, mix2 = cast(max_source_circuits=2)
    pending(alice, mix1)
    pending(alice, mix2)
    with pytest.raises(LimitReached):
        alice.manager.anonymous_connection(path(mix1), BOB_V4, NOW)


def test_impossible_paths_are_refused_at_once_with_a_count() -> None:
    alice, mix1, mix2 = cast()
    alice.backend.max_templates = 3
    assert pending(alice, mix1, mix2)
    wrong = [
        path(),
        path(mix1, mix2, Actor(9)),
        path(mix1, mix1),
        path(mix1, alice),
    ]
    for hops in wrong:
        with pytest.raises(NoSuitablePath) as caught:
            alice.manager.anonymous_connection(hops, BOB_V4, NOW)
        assert caught.value.known == len(hops)


# --- Figure 5: the relay and the exit ---


def at_relay() -> tuple[Actor, Actor, Actor, UdpDatagram]:
    alice, mix1, mix2 = cast()
    _, [onion] = pending(alice, mix1, mix2)
    return alice, mix1, mix2, onion


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


def test_replayed_onion_is_acknowledged_by_nobody_and_dropped() -> None:
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


def test_who_comes_to_the_copy_of_last_words_too_late_does_not_say_them() -> None:
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
