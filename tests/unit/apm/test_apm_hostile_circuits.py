"""Sources and hops that ask for what they should not: probing, occupying, redirecting."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from apm_fakes import NOW, Actor, control, controls
from apm_lab import BOB_V4, BOB_V6, Net, lab_settings
from apm_onions import RNG, exit_layer, relay_layer, send
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from overlay.addresses import new_circuit_address
from overlay.apm.circuits import SourceIpsecInfo
from overlay.apm.control import CircuitPing, Confirm, Refuse, RefuseReason, Teardown
from overlay.apm.events import CircuitOpened
from overlay.apm.settings import ApmSettings
from overlay.ipsec.interface import ANY_V4, ANY_V6, IpsecConfiguration, PolicyDirection
from overlay.selection.selector import MixPath


def introduce(left: Actor, right: Actor) -> None:
    left.link_to(right)
    right.link_to(left)


def anonymous_source() -> tuple[Actor, Actor, Actor, SourceIpsecInfo]:
    """Alice is the source of a circuit whose exit is Mallory's; Mallory is her neighbour too."""
    alice, mix, mallory = Actor(1), Actor(2), Actor(3)
    introduce(alice, mix)
    introduce(mix, mallory)
    introduce(alice, mallory)
    path = MixPath((mix.descriptor, mallory.descriptor))
    number = alice.manager.anonymous_connection(path, BOB_V4, NOW)
    alice.sends()
    info = alice.manager.inspection().ipsec_info(number)
    assert isinstance(info, SourceIpsecInfo)
    return alice, mix, mallory, info


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_exit_cannot_find_the_source_by_the_spis_of_its_hop(direction: str) -> None:
    alice, _, mallory, info = anonymous_source()
    known = info.hops[1].forward_spi if direction == "forward" else info.hops[1].backward_spi
    send(mallory, alice, exit_layer(mallory, alice, forward=known))
    assert [type(answer) for answer in controls(alice.sends())] == [Confirm]


def test_link_spis_that_observers_see_can_be_taken_by_a_circuit() -> None:
    """Otherwise another node could find out by a request that this node owns an SPI on the wire."""
    alice, mallory = Actor(1), Actor(3)
    introduce(alice, mallory)
    link_spi = alice.spis.allocate()
    send(mallory, alice, exit_layer(mallory, alice, forward=link_spi))
    assert [type(answer) for answer in controls(alice.sends())] == [Confirm]


def test_exit_cannot_find_the_source_by_the_circuit_addresses_of_its_hop() -> None:
    """The source answers as a bystander does: not at all."""
    alice, _, mallory, info = anonymous_source()
    bystander = Actor(9)
    introduce(bystander, mallory)
    for asked in (alice, bystander):
        asked.sends()
        drops = sum(asked.manager.relay_report().drops.values())
        for address in (sas.near for sas in info.hops):
            send(mallory, asked, exit_layer(mallory, asked, near=address))
            send(mallory, asked, relay_layer(mallory, asked, mallory.address, far=address))
            send(mallory, asked, relay_layer(mallory, asked, Actor(77).address, far=address))
        assert controls(asked.sends()) == []
        assert asked.manager.events() == []
        report = asked.manager.relay_report()
        assert sum(report.drops.values()) == drops + 6
        assert report.relayed + report.exits + report.waiting == 0


def test_refused_probe_is_not_remembered_and_costs_no_place_in_the_replay_cache() -> None:
    alice, _, mallory, info = anonymous_source()
    send(mallory, alice, exit_layer(mallory, alice, near=info.hops[1].near))
    assert alice.manager.relay_report().remembered_onions == 0


def test_far_address_in_use_is_answered_with_collision() -> None:
    mix, mallory = Actor(2), Actor(3)
    introduce(mix, mallory)
    far = new_circuit_address(mix.address, Actor(77).address, RNG)
    for _ in range(2):
        send(mallory, mix, relay_layer(mallory, mix, Actor(77).address, far=far))
    assert controls(mix.sends()) == [Refuse(RefuseReason.COLLISION)]
    assert mix.manager.relay_report().waiting == 1


def test_forward_spi_in_use_by_another_circuit_is_answered_with_collision() -> None:
    mix, mallory = Actor(2), Actor(3)
    introduce(mix, mallory)
    for _ in range(2):
        send(mallory, mix, exit_layer(mallory, mix, forward=4711))
    assert [type(answer) for answer in controls(mix.sends())] == [Confirm, Refuse]
    assert mix.manager.relay_report().exits == 1


def test_near_address_in_use_is_dropped_and_spares_the_circuit_that_has_it() -> None:
    """No answer is possible: the policy that would carry it belongs to the other circuit."""
    mix, mallory = Actor(2), Actor(3)
    introduce(mix, mallory)
    near = new_circuit_address(mallory.address, mix.address, RNG)
    send(mallory, mix, exit_layer(mallory, mix, near=near))
    mix.sends()
    installed = list(mix.backend.installed)
    send(mallory, mix, exit_layer(mallory, mix, near=near))
    assert controls(mix.sends()) == []
    assert mix.backend.installed == installed
    assert mix.manager.relay_report().exits == 1
    mix.hears(control(near, mix.address, CircuitPing(b"12345678")))
    assert len(controls(mix.sends())) == 1


def test_onion_is_good_over_the_link_that_it_was_made_for_alone() -> None:
    alice, mix, mallory = Actor(1), Actor(2), Actor(3)
    introduce(alice, mix)
    introduce(mallory, mix)
    send(mallory, mix, exit_layer(alice, mix))
    assert controls(mix.sends()) == []
    assert mix.manager.relay_report().exits == 0


@pytest.mark.parametrize("has_link", [True, False])
def test_impossible_endpoint_does_not_tell_whether_there_is_a_link(has_link: bool) -> None:
    mix, mallory, other = Actor(2, ApmSettings()), Actor(3), Actor(4)
    introduce(mix, mallory)
    if has_link:
        introduce(mix, other)
    send(mallory, mix, relay_layer(mallory, mix, other.address))
    assert controls(mix.sends()) == [Refuse(RefuseReason.UNREACHABLE)]


# --- occupying ---


def test_one_neighbour_cannot_take_all_places_where_onions_wait_for_links() -> None:
    mix, mallory, alice = Actor(2), Actor(3), Actor(1)
    introduce(mix, mallory)
    introduce(mix, alice)
    for number in range(70):
        send(mallory, mix, relay_layer(mallory, mix, Actor(100 + number).address))
    assert mix.manager.relay_report().waiting == 8
    send(alice, mix, relay_layer(alice, mix, Actor(77).address))
    assert mix.manager.relay_report().waiting == 9


def test_one_neighbour_cannot_close_a_relay_to_the_others_by_filling_the_replay_cache() -> None:
    settings = lab_settings(max_replay_entries=60, max_replay_entries_per_neighbour=3)
    mix, mallory, alice = Actor(2, settings), Actor(3), Actor(1)
    introduce(mix, mallory)
    introduce(mix, alice)
    for _ in range(9):
        send(mallory, mix, exit_layer(mallory, mix))
    mix.sends()
    send(alice, mix, exit_layer(alice, mix))
    assert [type(answer) for answer in controls(mix.sends())] == [Confirm]


def test_refusals_to_other_nodes_leave_room_for_closing_circuits() -> None:
    settings = lab_settings(max_closing_circuits=40, max_circuits=1)
    mix, mallory, alice = Actor(2, settings), Actor(3), Actor(1)
    introduce(mix, mallory)
    introduce(mix, alice)
    send(alice, mix, exit_layer(alice, mix))
    mix.sends()
    for _ in range(9):
        send(mallory, mix, exit_layer(mallory, mix))
    assert [type(answer) for answer in controls(mix.sends())] == [Refuse, Refuse]
    mix.manager.close_all(NOW)
    assert [type(answer) for answer in controls(mix.sends())] == [Teardown]


# --- through the exit ---


def v4(source: bytes, destination: bytes) -> bytes:
    header = IP(src=".".join(map(str, source)), dst=".".join(map(str, destination)))
    return bytes(header / UDP(sport=1, dport=2) / Raw(b"hello neighbour"))


def v6(source: bytes, destination: bytes) -> bytes:
    header = IPv6(
        src=socket.inet_ntop(socket.AF_INET6, source),
        dst=socket.inet_ntop(socket.AF_INET6, destination),
    )
    return bytes(header / UDP(sport=1, dport=2) / Raw(b"hello neighbour"))


@pytest.mark.parametrize("version", [4, 6])
def test_circuits_of_one_exit_reach_each_other_through_its_policy_alone(version: int) -> None:
    """What leaves a circuit leaves the overlay, whatever inner address it is for."""
    net = Net(["alice", "mallory", "mix1"])
    inner = {}
    for name in ("alice", "mallory"):
        net.open(name, ["mix1"], BOB_V4 if version == 4 else BOB_V6)
        net.run(2)
        [opened] = [e for e in net[name].events if isinstance(e, CircuitOpened)]
        inner[name] = opened.inner_addresses.of_version(version)
    build = v4 if version == 4 else v6
    attack = build(inner["mallory"], inner["alice"])
    # Mallory's host is hers: she seals towards any destination.
    [circuit] = net["mallory"].manager.inspection().own()
    engine = net["mallory"].engine
    [policy] = [
        p for p in circuit.inner_configuration.policies if p.direction is PolicyDirection.OUT
    ]
    anywhere = ANY_V4 if version == 4 else ANY_V6
    wide = replace(policy, selector=replace(policy.selector, destination=anywhere))
    engine.install(IpsecConfiguration((), (wide,)))
    net.inject("mallory", attack)
    net.run(2)
    assert net["alice"].to_host == []
    assert net["mix1"].to_exit == [attack], "the exit's rules decide"
