"""Whole circuits through the userspace engine: what arrives, and what must not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from ipsec_circuits import (
    BOB_V4,
    BOB_V6,
    INNER_V4,
    INNER_V6,
    NOW,
    Circuit,
    build_circuit,
    circuit_address,
    ip,
    ipv4,
    ipv6,
    overlay_address,
    template,
    underlay,
)

from overlay.ipsec.esp import OutboundSa
from overlay.ipsec.headers import ESP, IPV6
from overlay.ipsec.interface import (
    Drop,
    IpsecConfiguration,
    PolicyDirection,
    SecurityAssociation,
    SecurityPolicy,
)
from overlay.ipsec.suites import SUITES

FAMILIES = pytest.mark.parametrize(
    ("inner", "bob"), [(INNER_V4, BOB_V4), (INNER_V6, BOB_V6)], ids=["inner4", "inner6"]
)
HOPS = pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])


def no_drops(circuit: Circuit) -> bool:
    return all(not host.engine.drops() for host in circuit.hosts)


@HOPS
@FAMILIES
def test_packets_travel_both_ways(hops, inner, bob):
    circuit = build_circuit(hops, inner=inner, bob=bob)
    for size in (0, 1, 700, 1400):
        there, back = ip(inner, bob, bytes(size)), ip(bob, inner, bytes(size))
        sent = circuit.alice.engine.process_outbound([there] * 3, NOW).to_network
        host, result = circuit.carry(circuit.alice, sent)
        assert (host, result.to_exit) == (circuit.exit, [there] * 3)
        sent = circuit.exit.engine.process_outbound([back] * 3, NOW).to_network
        host, result = circuit.carry(circuit.exit, sent)
        assert (host, result.to_host) == (circuit.alice, [back] * 3)
    assert no_drops(circuit)


@pytest.mark.parametrize("suite", [n for n, s in SUITES.items() if not s.experiment])
def test_every_suite_carries_a_circuit(suite):
    circuit = build_circuit(3, suite=suite, link_suite=suite)
    there = ipv4(INNER_V4, BOB_V4, b"hello")
    sent = circuit.alice.engine.process_outbound([there], NOW).to_network
    assert circuit.carry(circuit.alice, sent)[1].to_exit == [there]


@HOPS
def test_circuit_control_reaches_every_hop_and_comes_back(hops):
    circuit = build_circuit(hops)
    for i in range(1, hops + 1):
        c, v = circuit_address(i - 1), overlay_address(i)
        request, answer = ipv6(c, v, b"confirm"), ipv6(v, c, b"confirmed")
        sent = circuit.alice.engine.process_outbound([request], NOW).to_network
        host, result = circuit.carry(circuit.alice, sent)
        assert (host.index, result.to_control) == (i, [request])
        sent = host.engine.process_outbound([answer], NOW).to_network
        home, result = circuit.carry(host, sent)
        assert (home.index, result.to_control) == (0, [answer])
    assert no_drops(circuit)


def test_signalling_between_neighbours_needs_the_link_alone():
    circuit = build_circuit(2)
    message = ipv6(overlay_address(1), overlay_address(2), b"onion")
    sent = circuit.hosts[1].engine.process_outbound([message], NOW).to_network
    host, result = circuit.carry(circuit.hosts[1], sent)
    assert (host.index, result.to_control) == (2, [message])


def test_every_packet_on_a_padded_link_has_one_size():
    circuit = build_circuit(2, tfc_pad_to=1500)
    packets = [ipv4(INNER_V4, BOB_V4, bytes(size)) for size in (0, 100, 1000)]
    sent = circuit.alice.engine.process_outbound(packets, NOW).to_network
    dummy = circuit.alice.engine.dummy(101, NOW)
    assert dummy is not None
    onward = circuit.hosts[1].engine.process_inbound([*sent, dummy], NOW)
    assert len({len(data) for data, _ in [*sent, dummy, *onward.to_network]}) == 1
    assert circuit.hosts[1].engine.drops() == {Drop.DUMMY: 1}


def test_what_a_relay_forwards_shares_no_byte_string_with_what_it_received():
    circuit = build_circuit(3)
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, bytes(200))], NOW)
    onward = circuit.hosts[1].engine.process_inbound(sent.to_network, NOW)
    before, after = sent.to_network[0][0], onward.to_network[0][0]
    assert not {before[i : i + 8] for i in range(len(before) - 7)} & {
        after[i : i + 8] for i in range(len(after) - 7)
    }


# What must not pass. Mallory has a link with every host, and whatever else a test gives her.


def by_mallory(circuit: Circuit, to: int, packet: bytes) -> list[tuple[bytes, object]]:
    """Send a packet of mallory's choice to a host in her own link SA."""
    link = OutboundSa(circuit.mallory.out_link[to], Random(9), lambda _: None)
    sealed = link.seal(packet, IPV6 if packet[0] >> 4 == 6 else 4, NOW)
    assert isinstance(sealed, bytes)
    return [(sealed, underlay(circuit.mallory.index))]


def expect_drop(circuit: Circuit, at: int, datagrams, *drops: Drop) -> None:
    result = circuit.hosts[at].engine.process_inbound(datagrams, NOW)
    kept = (result.to_network, result.to_control, result.to_host, result.to_exit)
    assert kept == ([], [], [], [])
    assert circuit.hosts[at].engine.drops() == dict.fromkeys(drops, 1)


def opened_at(circuit: Circuit, host: int) -> bytes:
    """The onion packet C(host-1)->V(host) that this host finds in its link."""
    out = OutboundSa(circuit.forward[host - 1].outbound, Random(3), lambda _: None)
    sealed = out.seal(ipv4(INNER_V4, BOB_V4, b"x"), 4, NOW)
    assert isinstance(sealed, bytes)
    return sealed


def test_an_onion_packet_from_the_wrong_link_is_not_forwarded():
    circuit = build_circuit(2)
    onion = ipv6(circuit_address(1), overlay_address(2), bytes(64), ESP)
    out = OutboundSa(circuit.forward[0].outbound, Random(3), lambda _: None)
    stolen = out.seal(onion, IPV6, NOW)
    assert isinstance(stolen, bytes)
    expect_drop(circuit, 1, by_mallory(circuit, 1, stolen), Drop.IN_TMPL_MISMATCH)


def test_the_right_link_is_not_mistaken_for_the_wrong_one_after_a_plan_was_made():
    circuit = build_circuit(2)
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, b"x")] * 2, NOW)
    first, second = sent.to_network
    assert circuit.hosts[1].engine.process_inbound([first], NOW).to_network
    onion = ipv6(circuit_address(1), overlay_address(2), bytes(64), ESP)
    value = circuit.forward[0].outbound
    counters = circuit.alice.engine.query(value.identity)
    out = OutboundSa(value, Random(3), lambda _: None, start=counters.sequence + 500)
    stolen = out.seal(onion, IPV6, NOW)
    assert isinstance(stolen, bytes)
    expect_drop(circuit, 1, by_mallory(circuit, 1, stolen), Drop.IN_TMPL_MISMATCH)
    assert circuit.hosts[1].engine.process_inbound([second], NOW).to_network


def test_a_backward_packet_from_the_wrong_link_is_not_forwarded():
    circuit = build_circuit(2)
    packet = ipv6(overlay_address(2), circuit_address(1), bytes(64), ESP)
    expect_drop(circuit, 1, by_mallory(circuit, 1, packet), Drop.IN_TMPL_MISMATCH)


def test_inner_addresses_without_the_onion_sa_do_not_leave_at_the_exit():
    circuit = build_circuit(2)
    packet = ipv4(INNER_V4, BOB_V4, b"x")
    expect_drop(circuit, 2, by_mallory(circuit, 2, packet), Drop.IN_TMPL_MISMATCH)


def test_inner_addresses_from_the_right_link_but_no_onion_sa_do_not_leave_either():
    circuit = build_circuit(2)
    link = OutboundSa(circuit.hosts[1].out_link[2], Random(3), lambda _: None)
    sealed = link.seal(ipv4(INNER_V4, BOB_V4, b"x"), 4, NOW)
    expect_drop(circuit, 2, [(sealed, underlay(1))], Drop.IN_TMPL_MISMATCH)


def test_a_spoofed_inner_source_does_not_leave_at_the_exit():
    circuit = build_circuit(1)
    other = bytes((100, 64, 0, 8))
    out = OutboundSa(circuit.forward[0].outbound, Random(3), lambda _: None)
    link = OutboundSa(circuit.alice.out_link[1], Random(3), lambda _: None)
    onion = out.seal(ipv4(other, BOB_V4, b"x"), 4, NOW)
    assert isinstance(onion, bytes)
    sealed = link.seal(onion, IPV6, NOW)
    expect_drop(circuit, 1, [(sealed, underlay(0))], Drop.IN_NO_POLS)


def test_a_packet_with_a_spoofed_control_source_is_dropped():
    circuit = build_circuit(2)
    packet = ipv6(circuit_address(0), overlay_address(1), b"tear down")
    expect_drop(circuit, 1, by_mallory(circuit, 1, packet), Drop.IN_TMPL_MISMATCH)


def test_mallory_cannot_speak_for_another_neighbour():
    circuit = build_circuit(2)
    packet = ipv6(overlay_address(2), overlay_address(1), b"onion")
    expect_drop(circuit, 1, by_mallory(circuit, 1, packet), Drop.IN_TMPL_MISMATCH)


def test_a_packet_for_the_source_that_skipped_the_circuit_is_dropped():
    circuit = build_circuit(2)
    packet = ipv4(BOB_V4, INNER_V4, b"x")
    expect_drop(circuit, 0, by_mallory(circuit, 0, packet), Drop.IN_TMPL_MISMATCH)


def test_a_packet_for_the_source_that_skipped_a_tunnel_is_dropped():
    circuit = build_circuit(3)
    out = OutboundSa(circuit.backward[0].outbound, Random(3), lambda _: None)
    onion = out.seal(ipv4(BOB_V4, INNER_V4, b"x"), 4, NOW)
    assert isinstance(onion, bytes)
    link = OutboundSa(circuit.hosts[1].out_link[0], Random(3), lambda _: None)
    sealed = link.seal(onion, IPV6, NOW)
    expect_drop(circuit, 0, [(sealed, underlay(1))], Drop.IN_TMPL_MISMATCH)


def test_an_onion_packet_with_another_outer_source_is_not_opened():
    circuit = build_circuit(1)
    onion = opened_at(circuit, 1)
    spoofed = onion[:8] + circuit_address(99) + onion[24:]
    link = OutboundSa(circuit.alice.out_link[1], Random(3), lambda _: None)
    sealed = link.seal(spoofed, IPV6, NOW)
    expect_drop(circuit, 1, [(sealed, underlay(0))], Drop.IN_TMPL_MISMATCH)


def test_an_esp_packet_for_us_with_an_unknown_spi_is_dropped():
    circuit = build_circuit(1)
    packet = ipv6(circuit_address(0), overlay_address(1), b"\x00\x00\xff\xff" + bytes(60), ESP)
    expect_drop(circuit, 1, by_mallory(circuit, 1, packet), Drop.IN_NO_STATES)


def test_an_esp_packet_for_us_too_short_for_an_spi_is_dropped():
    circuit = build_circuit(1)
    packet = ipv6(circuit_address(0), overlay_address(1), b"\x00\x00", ESP)
    expect_drop(circuit, 1, by_mallory(circuit, 1, packet), Drop.IN_NO_STATES)


def test_a_replayed_datagram_is_dropped_at_the_next_hop():
    circuit = build_circuit(2)
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, b"x")], NOW).to_network
    circuit.hosts[1].engine.process_inbound(sent, NOW)
    expect_drop(circuit, 1, sent, Drop.IN_STATE_SEQ_ERROR)


def test_an_onion_packet_replayed_in_a_fresh_link_packet_is_dropped():
    circuit = build_circuit(1)
    onion = opened_at(circuit, 1)
    link = OutboundSa(circuit.alice.out_link[1], Random(3), lambda _: None)
    sealed = [(link.seal(onion, IPV6, NOW), underlay(0)) for _ in range(2)]
    assert circuit.hosts[1].engine.process_inbound(sealed[:1], NOW).to_exit
    expect_drop(circuit, 1, sealed[1:], Drop.IN_STATE_SEQ_ERROR)


def swap(
    configuration: IpsecConfiguration, direction: PolicyDirection, count: int
) -> IpsecConfiguration:
    """The same with the templates of each such policy of ``count`` templates in reverse."""

    def swapped(p: SecurityPolicy) -> SecurityPolicy:
        hit = p.direction is direction and len(p.templates) == count
        return replace(p, templates=p.templates[::-1]) if hit else p

    policies = tuple(swapped(p) for p in configuration.policies)
    assert policies != configuration.policies
    return replace(configuration, policies=policies)


@pytest.mark.parametrize(
    ("direction", "drop"),
    [(PolicyDirection.FWD, Drop.IN_TMPL_MISMATCH), (PolicyDirection.OUT, Drop.OUT_NO_STATES)],
)
def test_swapped_templates_let_nothing_through(direction, drop):
    circuit = build_circuit(2)
    relay = circuit.hosts[1].engine
    relay.remove(circuit.configurations[1])
    relay.install(swap(circuit.configurations[1], direction, 2))
    there, back = ipv4(INNER_V4, BOB_V4, b"x"), ipv4(BOB_V4, INNER_V4, b"x")
    forward = circuit.alice.engine.process_outbound([there], NOW).to_network
    backward = circuit.exit.engine.process_outbound([back], NOW).to_network
    relay.process_inbound(forward, NOW)
    relay.process_inbound(backward, NOW)
    assert relay.drops() == {drop: 1}


def test_a_policy_with_one_tunnel_too_many_lets_nothing_through():
    circuit = build_circuit(1)
    exit_node, configuration = circuit.exit.engine, circuit.configurations[1]
    exit_node.remove(configuration)
    extra = template(circuit.backward[0].outbound)
    policies = tuple(
        replace(p, templates=(extra, *p.templates)) if p.direction is PolicyDirection.FWD else p
        for p in configuration.policies
    )
    exit_node.install(replace(configuration, policies=policies))
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, b"x")], NOW).to_network
    expect_drop(circuit, 1, sent, Drop.IN_TMPL_MISMATCH)


def test_a_relay_whose_out_policy_is_gone_does_not_let_onions_out_of_the_overlay():
    circuit = build_circuit(2)
    out = tuple(p for p in circuit.configurations[1].policies if p.direction is PolicyDirection.OUT)
    circuit.hosts[1].engine.remove(IpsecConfiguration((), out))
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, b"x")], NOW).to_network
    expect_drop(circuit, 1, sent, Drop.OUT_POL_BLOCK)


def test_the_source_sends_nothing_in_clear_when_its_circuit_is_gone():
    circuit = build_circuit(2)
    packet = ipv4(INNER_V4, BOB_V4, b"x")
    assert circuit.alice.engine.process_outbound([packet], NOW).to_network
    circuit.alice.engine.remove(circuit.configurations[0])
    result = circuit.alice.engine.process_outbound([packet], NOW)
    assert (result.to_network, result.to_exit) == ([], [])
    assert circuit.alice.engine.drops() == {Drop.OUT_POL_BLOCK: 1}


def test_a_removed_circuit_is_gone_at_the_relay_as_well():
    circuit = build_circuit(2)
    sent = circuit.alice.engine.process_outbound([ipv4(INNER_V4, BOB_V4, b"x")] * 2, NOW)
    first, second = sent.to_network
    assert circuit.hosts[1].engine.process_inbound([first], NOW).to_network
    circuit.hosts[1].engine.remove(circuit.configurations[1])
    expect_drop(circuit, 1, [second], Drop.IN_NO_STATES)


# Rekeying


def rekeyed(sa: SecurityAssociation) -> SecurityAssociation:
    return replace(sa, spi=sa.spi + 0x100)


def test_an_onion_sa_is_replaced_make_before_break_without_touching_a_policy():
    circuit = build_circuit(2)
    packet, relay = ipv4(INNER_V4, BOB_V4, b"x"), circuit.hosts[1].engine
    old = circuit.forward[0]
    in_flight = circuit.alice.engine.process_outbound([packet], NOW).to_network
    relay.install(IpsecConfiguration((rekeyed(old.inbound),), ()))
    circuit.alice.engine.install(IpsecConfiguration((rekeyed(old.outbound),), ()))
    sent = circuit.alice.engine.process_outbound([packet], NOW).to_network
    assert len(relay.process_inbound([*in_flight, *sent], NOW).to_network) == 2
    for value in (old.inbound, rekeyed(old.inbound)):
        counters = relay.query(value.identity)
        assert counters is not None
        assert counters.packets == 1
    circuit.alice.engine.remove(IpsecConfiguration((old.outbound,), ()))
    relay.remove(IpsecConfiguration((old.inbound,), ()))
    again = circuit.alice.engine.process_outbound([packet], NOW).to_network
    assert circuit.carry(circuit.alice, again)[1].to_exit == [packet]
    assert no_drops(circuit)


def test_when_the_newest_sa_is_removed_the_one_before_seals_again():
    circuit = build_circuit(1)
    newer = rekeyed(circuit.forward[0].outbound)
    configuration = IpsecConfiguration((newer,), ())
    circuit.alice.engine.install(configuration)
    circuit.alice.engine.remove(configuration)
    packet = ipv4(INNER_V4, BOB_V4, b"x")
    sent = circuit.alice.engine.process_outbound([packet], NOW).to_network
    assert circuit.carry(circuit.alice, sent)[1].to_exit == [packet]


@HOPS
def test_packets_that_exceed_a_link_travel_in_pieces_of_one_size(hops):
    circuit = build_circuit(hops, inner=INNER_V6, bob=BOB_V6)
    for host in circuit.hosts:
        for link in host.out_link.values():
            host.engine.limit_link(link.reqid, 700)
    there, back = ipv6(INNER_V6, BOB_V6, bytes(1260)), ipv6(BOB_V6, INNER_V6, bytes(1260))
    sent = circuit.alice.engine.process_outbound([there] * 3, NOW).to_network
    assert len({len(datagram) for datagram, _ in sent}) == 1
    assert all(len(datagram) <= 700 for datagram, _ in sent)
    host, result = circuit.carry(circuit.alice, sent)
    assert (host, result.to_exit) == (circuit.exit, [there] * 3)
    sent = circuit.exit.engine.process_outbound([back], NOW).to_network
    assert len(sent) > 1
    host, result = circuit.carry(circuit.exit, sent)
    assert (host, result.to_host) == (circuit.alice, [back])
    assert no_drops(circuit)
