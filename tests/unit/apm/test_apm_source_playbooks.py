"""Figure 4 of the paper and what follows it, as playbooks of the source: >> in, << out."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from apm_fakes import NOW, Actor, control, controls, onions
from apm_lab import BOB_V4, lab_settings
from apm_playbooks import cast, finish, nears, path, pending, record_calls

from overlay.addresses import InnerAddress
from overlay.apm.control import (
    CircuitPing,
    CircuitPong,
    Confirm,
    Refuse,
    RefuseReason,
    Teardown,
    TeardownReason,
)
from overlay.apm.events import (
    CircuitClosed,
    CircuitEnd,
    CircuitFailed,
    CircuitLost,
    CircuitOpened,
    CircuitState,
    LinkSilent,
    LinkWanted,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.errors import (
    AddressInUse,
    BackendError,
    CircuitRefused,
    CircuitTimedOut,
    LimitReached,
    NoSuitablePath,
    PathError,
)
from overlay.link.security import LinkSecurity

TICKET = bytes(range(16))
INNER = InnerAddresses(ipv4=InnerAddress(bytes((100, 64, 3, 4))))


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
