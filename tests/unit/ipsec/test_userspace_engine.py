from random import Random

import pytest
from ipsec_circuits import (
    BOB_V4,
    INNER_V4,
    NOW,
    SaEnds,
    circuit_address,
    ipv4,
    ipv6,
    overlay_address,
    policy,
    sa_ends,
    underlay,
)

from overlay.addresses import Endpoint
from overlay.ipsec.esp import NEAR_AHEAD, OutboundSa
from overlay.ipsec.headers import ESP, IPV6
from overlay.ipsec.interface import (
    MAX_TEMPLATES,
    Drop,
    IpsecConfiguration,
    Lifetime,
    PolicyDirection,
    Prefix,
    SecurityPolicy,
    Selector,
)
from overlay.ipsec.userspace import compiled_policies
from overlay.ipsec.userspace.engine import UserspaceEngine

HERE, THERE = overlay_address(1), overlay_address(2)
PACKET = ipv6(HERE, THERE, b"signal")


def engine() -> UserspaceEngine:
    return UserspaceEngine(rng=Random(1))


def link(spi: int = 0x700, reqid: int = 7, **options) -> SaEnds:
    udp = (underlay(1), underlay(2))
    return sa_ends(spi, (reqid, reqid), udp[0].packed, udp[1].packed, udp=udp, **options)


def pair(**options) -> tuple[UserspaceEngine, UserspaceEngine]:
    """A sender and a receiver of PACKET over one link."""
    ends, sender, receiver = link(**options), engine(), engine()
    sender.install(
        IpsecConfiguration(
            (ends.outbound,), (policy(PolicyDirection.OUT, HERE, THERE, ends.outbound),), (HERE,)
        )
    )
    receiver.install(
        IpsecConfiguration(
            (ends.inbound,), (policy(PolicyDirection.IN, HERE, THERE, ends.inbound),), (THERE,)
        )
    )
    return sender, receiver


@pytest.mark.parametrize("packet", [b"", b"\x60", PACKET[:39], PACKET[:-1], b"\x00" * 60])
def test_what_is_no_ip_packet_is_not_sealed(packet):
    sender, _ = pair()
    assert sender.process_outbound([packet], NOW).to_network == []
    assert sender.drops() == {Drop.OUT_ERROR: 1}


def test_bytes_after_an_outbound_packet_are_not_sealed():
    sender, receiver = pair()
    sent = sender.process_outbound([PACKET + b"rest"], NOW).to_network
    assert receiver.process_inbound(sent, NOW).to_control == [PACKET]


@pytest.mark.parametrize("datagram", [b"", b"\x00", b"\x00\x00\x07\x00", b"\x00\x00\x07\x01" * 20])
def test_datagrams_of_no_sa_are_counted_and_dropped(datagram):
    _, receiver = pair()
    assert receiver.process_inbound([(datagram, underlay(1))], NOW).to_control == []
    assert sum(receiver.drops().values()) == 1


def test_a_bad_packet_does_not_stop_the_rest_of_its_batch():
    sender, receiver = pair()
    (good,) = sender.process_outbound([PACKET], NOW).to_network
    bad = (b"\x00\x00\x07\x00" + bytes(80), underlay(1))
    assert receiver.process_inbound([bad, good, bad], NOW).to_control == [PACKET]


def test_a_datagram_from_another_endpoint_is_accepted_as_nat_may_move_a_peer():
    sender, receiver = pair()
    ((datagram, _),) = sender.process_outbound([PACKET], NOW).to_network
    assert receiver.process_inbound([(datagram, underlay(9))], NOW).to_control == [PACKET]


def forged(sender, count: int) -> list[tuple[bytes, Endpoint]]:
    """Datagrams of the link that are not authentic, each from another endpoint."""
    ((datagram, _),) = sender.process_outbound([PACKET], NOW).to_network
    return [
        (datagram[:-1] + bytes([datagram[-1] ^ 1]), Endpoint("9.9.9.9", 1 + index))
        for index in range(count)
    ]


def test_under_attack_a_link_defers_what_does_not_come_from_its_peer():
    sender, receiver = pair()
    garbage = forged(sender, 200)
    elsewhere, peer = Endpoint("7.7.7.7", 7), underlay(1)
    receiver.process_inbound(garbage[:64], NOW, defer_doubtful=True)
    opened = sum(receiver.drops().values())
    ((first, _),) = sender.process_outbound([PACKET], NOW).to_network
    ((moved, _),) = sender.process_outbound([PACKET], NOW).to_network
    batch = [*garbage[64:], (first, peer), (moved, elsewhere)]
    processed = receiver.process_inbound(batch, NOW, defer_doubtful=True)
    assert processed.to_control == [PACKET]
    assert processed.deferred == [*garbage[64:], (moved, elsewhere)]
    assert sum(receiver.drops().values()) == opened
    # A peer that NAT has moved is heard, and then known at its new endpoint.
    assert receiver.process_inbound(processed.deferred, NOW).to_control == [PACKET]
    again = [(data, elsewhere) for data, _ in sender.process_outbound([PACKET], NOW).to_network]
    assert receiver.process_inbound(again, NOW, defer_doubtful=True).to_control == [PACKET]


def ahead(datagram: bytes, numbers: int) -> bytes:
    """Return the datagram with a sequence number that lies so far ahead."""
    number = int.from_bytes(datagram[4:8], "big") + numbers
    return datagram[:4] + (number % 2**32).to_bytes(4, "big") + datagram[8:]


def test_under_attack_a_link_defers_numbers_far_from_those_of_its_peer():
    sender, receiver = pair()
    peer = underlay(1)
    ((first, _),) = sender.process_outbound([PACKET], NOW).to_network
    receiver.process_inbound([(first, peer)], NOW)
    far = [(ahead(first, 2**15 + index), peer) for index in range(100)]
    assert receiver.attacked_links() == []
    assert receiver.process_inbound(far[:64], NOW, defer_doubtful=True).deferred == []
    (attacked,) = receiver.attacked_links()
    highest = int.from_bytes(first[4:8], "big")
    assert attacked == (0x700, peer, highest)
    ((second, _),) = sender.process_outbound([PACKET], NOW).to_network
    batch = [*far, (ahead(first, 2**31), peer), (ahead(second, 1000), peer), (second, peer)]
    processed = receiver.process_inbound(batch, NOW, defer_doubtful=True)
    assert processed.deferred == batch[:-2]
    assert processed.to_control == [PACKET]


def test_under_attack_a_link_goes_on_after_a_long_loss():
    sender, receiver = pair()
    peer = underlay(1)
    ((first, _),) = sender.process_outbound([PACKET], NOW).to_network
    receiver.process_inbound([(first, peer)], NOW)
    receiver.process_inbound(forged(sender, 64), NOW, defer_doubtful=True)
    assert len(receiver.attacked_links()) == 1
    sender.process_outbound([PACKET] * NEAR_AHEAD, NOW)  # all of these are lost
    batch = [(data, peer) for data, _ in sender.process_outbound([PACKET] * 3, NOW).to_network]
    deferred = receiver.process_inbound(batch, NOW, defer_doubtful=True).deferred
    assert deferred == batch
    # One of them has its turn among the requests; the others keep their place again.
    assert receiver.process_inbound(deferred[:1], NOW).to_control == [PACKET]
    processed = receiver.process_inbound(deferred[1:], NOW, defer_doubtful=True)
    assert processed.to_control == [PACKET] * 2


def test_a_link_under_attack_that_is_removed_is_forgotten():
    sender, receiver = pair()
    receiver.process_inbound(forged(sender, 64), NOW)
    assert len(receiver.attacked_links()) == 1
    receiver.flush()
    assert receiver.attacked_links() == []


def test_without_an_attack_nothing_is_deferred():
    sender, receiver = pair()
    receiver.process_inbound(forged(sender, 10), NOW, defer_doubtful=True)
    moved = [
        (data, Endpoint("7.7.7.7", 7))
        for data, _ in sender.process_outbound([PACKET], NOW).to_network
    ]
    processed = receiver.process_inbound(moved, NOW, defer_doubtful=True)
    assert (processed.to_control, processed.deferred) == ([PACKET], [])


def test_an_out_policy_without_an_sa_seals_nothing():
    ends, sender = link(), engine()
    sender.install(
        IpsecConfiguration((), (policy(PolicyDirection.OUT, HERE, THERE, ends.outbound),))
    )
    assert sender.process_outbound([PACKET], NOW).to_network == []
    assert sender.drops() == {Drop.OUT_NO_STATES: 1}
    sender.install(IpsecConfiguration((ends.outbound,), ()))
    assert len(sender.process_outbound([PACKET], NOW).to_network) == 1


def test_a_policy_whose_last_tunnel_is_no_link_sends_nothing():
    onion = sa_ends(0x800, (8, 8), circuit_address(0), THERE)
    sender = engine()
    sender.install(
        IpsecConfiguration(
            (onion.outbound,), (policy(PolicyDirection.OUT, HERE, THERE, onion.outbound),)
        )
    )
    assert sender.process_outbound([PACKET], NOW).to_network == []
    assert sender.drops() == {Drop.OUT_NO_STATES: 1}


def test_a_link_inside_another_tunnel_sends_nothing():
    first, second, sender = link(0x700, 7), link(0x701, 8), engine()
    chain = (first.outbound, second.outbound)
    sender.install(IpsecConfiguration(chain, (policy(PolicyDirection.OUT, HERE, THERE, *chain),)))
    assert sender.process_outbound([PACKET], NOW).to_network == []
    assert sender.drops() == {Drop.OUT_NO_STATES: 1}


def test_a_dummy_of_an_unknown_link_is_none():
    sender, _ = pair()
    assert sender.dummy(99, NOW) is None


def test_a_dummy_is_sealed_for_the_links_peer_and_dropped_there():
    sender, receiver = pair()
    dummy = sender.dummy(7, NOW)
    assert dummy is not None
    assert dummy[1] == underlay(2)
    receiver.process_inbound([dummy], NOW)
    assert receiver.drops() == {Drop.DUMMY: 1}


def test_a_dummy_of_a_dead_link_is_none():
    sender, _ = pair(lifetime=Lifetime(hard_packets=1))
    assert sender.dummy(7, NOW) is not None
    assert sender.dummy(7, NOW) is None
    assert sender.drops() == {Drop.OUT_STATE_EXPIRED: 1}


def test_soft_expiry_is_reported_once_and_drained():
    sender, _ = pair(lifetime=Lifetime(soft_packets=1))
    for _ in range(3):
        sender.process_outbound([PACKET], NOW)
    assert sender.soft_expired() == [link().outbound.identity]
    assert sender.soft_expired() == []


def test_seconds_of_a_lifetime_count_from_the_first_batch_after_installation():
    sender, _ = pair(lifetime=Lifetime(soft_s=10, hard_s=20))
    sender.process_inbound([], NOW)
    sender.process_outbound([PACKET], NOW + 9)
    assert sender.soft_expired() == []
    sender.process_outbound([PACKET], NOW + 10)
    assert len(sender.soft_expired()) == 1
    assert sender.process_outbound([PACKET], NOW + 20).to_network == []


def test_outbound_spis_of_two_peers_may_coincide():
    sender = engine()
    for peer in (2, 3):
        udp = (underlay(1), underlay(2)._replace(port=4000 + peer))
        ends = sa_ends(0x700, (peer, peer), udp[0].packed, udp[1].packed, udp=udp)
        out = policy(PolicyDirection.OUT, HERE, overlay_address(peer), ends.outbound)
        sender.install(IpsecConfiguration((ends.outbound,), (out,)))
    packets = [ipv6(HERE, overlay_address(peer), b"x") for peer in (2, 3)]
    sent = sender.process_outbound(packets, NOW).to_network
    assert [endpoint.port for _, endpoint in sent] == [4002, 4003]


def test_inbound_links_are_found_by_spi_alone_so_it_must_be_unique():
    receiver = engine()
    receiver.install(IpsecConfiguration((link().inbound,), ()))
    other = sa_ends(
        0x700, (9, 9), underlay(3).packed, underlay(4).packed, udp=(underlay(3), underlay(4))
    )
    with pytest.raises(ValueError, match="same identity"):
        receiver.install(IpsecConfiguration((other.inbound,), ()))


def test_onion_sas_over_ipv4_work_alike():
    ends = link()
    left, right = bytes((10, 9, 0, 1)), bytes((10, 9, 0, 2))
    onion = sa_ends(0x800, (8, 8), left, right)
    packet = ipv4(INNER_V4, BOB_V4, b"x")
    sender, receiver = engine(), engine()
    sender.install(
        IpsecConfiguration(
            (onion.outbound, ends.outbound),
            (policy(PolicyDirection.OUT, INNER_V4, BOB_V4, onion.outbound, ends.outbound),),
        )
    )
    receiver.install(
        IpsecConfiguration(
            (onion.inbound, ends.inbound),
            (policy(PolicyDirection.FWD, INNER_V4, None, onion.inbound, ends.inbound),),
            (right,),
        )
    )
    sent = sender.process_outbound([packet] * 2, NOW).to_network
    assert receiver.process_inbound(sent, NOW).to_exit == [packet] * 2


def test_a_fragment_of_an_onion_packet_is_not_opened():
    ends, receiver = link(), engine()
    left, right = bytes((10, 9, 0, 1)), bytes((10, 9, 0, 2))
    onion = sa_ends(0x800, (8, 8), left, right)
    receiver.install(IpsecConfiguration((onion.inbound, ends.inbound), (), (right,)))
    sender = engine()
    out = policy(PolicyDirection.OUT, left, right, ends.outbound)
    sender.install(IpsecConfiguration((ends.outbound,), (out,)))
    whole = ipv4(left, right, b"\x00\x00\x08\x00" + bytes(60), ESP)
    fragment = whole[:6] + b"\x20\x00" + whole[8:]
    receiver.process_inbound(sender.process_outbound([fragment], NOW).to_network, NOW)
    assert receiver.drops() == {Drop.IN_NO_STATES: 1}


def nested(onions: list[SaEnds], ends: SaEnds) -> list[tuple[bytes, Endpoint]]:
    packet, next_header = PACKET, IPV6
    for value in (*(o.outbound for o in onions), ends.outbound):
        sealed = OutboundSa(value, Random(1), lambda _: None).seal(packet, next_header, NOW)
        assert isinstance(sealed, bytes)
        packet = sealed
    return [(packet, underlay(1))]


@pytest.mark.parametrize(
    ("layers", "drop"),
    [(MAX_TEMPLATES - 1, Drop.IN_NO_POLS), (MAX_TEMPLATES, Drop.IN_TMPL_MISMATCH)],
)
def test_nesting_deeper_than_any_policy_may_ask_for_is_not_opened(layers, drop):
    ends, receiver = link(), engine()
    onions = [sa_ends(0x800 + i, (20 + i, 20 + i), HERE, THERE) for i in range(layers)]
    receiver.install(IpsecConfiguration((*(o.inbound for o in onions), ends.inbound), (), (THERE,)))
    receiver.process_inbound(nested(onions, ends), NOW)
    assert receiver.drops() == {drop: 1}
    innermost = receiver.query(onions[0].inbound.identity)
    assert innermost is not None
    assert innermost.packets == (1 if layers < MAX_TEMPLATES else 0)


def test_plans_forget_when_they_are_full(monkeypatch):
    monkeypatch.setattr(compiled_policies, "MAX_STEPS", 3)
    ends, onward, relay, sender = link(), link(0x900, 9), engine(), engine()
    relay.install(
        IpsecConfiguration(
            (ends.inbound, onward.outbound),
            (
                policy(PolicyDirection.FWD, None, THERE, ends.inbound),
                policy(PolicyDirection.OUT, None, THERE, onward.outbound),
            ),
        )
    )
    out = SecurityPolicy(
        PolicyDirection.OUT,
        Selector(Prefix(HERE, 32), Prefix.host(THERE)),
        policy(PolicyDirection.OUT, HERE, THERE, ends.outbound).templates,
    )
    sender.install(IpsecConfiguration((ends.outbound,), (out,)))
    packets = [ipv6(overlay_address(50 + i), THERE, bytes(8), ESP) for i in range(20)]
    sent = sender.process_outbound(packets * 2, NOW).to_network
    held = []
    for datagram in sent:
        assert len(relay.process_inbound([datagram], NOW).to_network) == 1
        held.append(relay.contents().steps)
    assert max(held) == 3


def test_the_most_specific_policy_decides_whatever_the_order_of_installation():
    ends = link()
    narrow = policy(PolicyDirection.IN, HERE, THERE, ends.inbound, ends.inbound)
    wide = policy(PolicyDirection.IN, None, THERE, ends.inbound)
    for order in ((narrow, wide), (wide, narrow)):
        sender, _ = pair()
        receiver = engine()
        receiver.install(IpsecConfiguration((ends.inbound,), (order[0],), (THERE,)))
        receiver.install(IpsecConfiguration((), (order[1],)))
        sent = sender.process_outbound([PACKET], NOW).to_network
        assert receiver.process_inbound(sent, NOW).to_control == []
        assert receiver.drops() == {Drop.IN_TMPL_MISMATCH: 1}


def test_a_policy_of_one_protocol_says_nothing_of_others():
    ends, sender = link(), engine()
    udp_only = policy(PolicyDirection.OUT, HERE, THERE, ends.outbound, protocol=17)
    sender.install(IpsecConfiguration((ends.outbound,), (udp_only,)))
    sent = sender.process_outbound([PACKET, ipv6(HERE, THERE, b"", 6)], NOW).to_network
    assert len(sent) == 1
    assert sender.drops() == {Drop.OUT_POL_BLOCK: 1}


def test_an_address_stays_until_its_last_holder_is_removed():
    sender, receiver = pair()
    other = IpsecConfiguration((link(0x900, 9).inbound,), (), (THERE,))
    receiver.install(other)
    for _ in range(2):
        receiver.remove(other)
        sent = sender.process_outbound([PACKET], NOW).to_network
        assert receiver.process_inbound(sent, NOW).to_control == [PACKET]


def test_an_address_alone_can_be_held_and_released():
    sender, receiver = pair()
    address = IpsecConfiguration((), (), (THERE,))
    ends = link()
    held = IpsecConfiguration(
        (ends.inbound,), (policy(PolicyDirection.IN, HERE, THERE, ends.inbound),), (THERE,)
    )
    receiver.install(address)
    receiver.remove(address)
    sent = sender.process_outbound([PACKET], NOW).to_network
    assert receiver.process_inbound(sent, NOW).to_control == [PACKET]
    receiver.remove(held)
    receiver.install(IpsecConfiguration(held.associations, held.policies))
    sender.remove(IpsecConfiguration((ends.outbound,), ()))
    sender.install(IpsecConfiguration((ends.outbound,), ()))
    sent = sender.process_outbound([PACKET], NOW).to_network
    assert receiver.process_inbound(sent, NOW).to_control == []
    assert receiver.drops() == {Drop.IN_NO_POLS: 1}


def test_removal_spares_an_sa_of_the_same_identity_that_has_another_key():
    receiver = engine()
    receiver.install(IpsecConfiguration((link().inbound,), ()))
    receiver.remove(IpsecConfiguration((link(key_seed=99).inbound,), ()))
    assert receiver.query(link().inbound.identity) is not None
