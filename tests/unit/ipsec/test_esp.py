import math
from dataclasses import replace
from random import Random

import pytest
from ipsec_circuits import BOB_V4, INNER_V4, NOW, SaEnds, advance, ipv4, ipv6, keymat, sa_ends

from overlay.addresses import Endpoint
from overlay.ipsec import esp
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4, IPV6, NO_NEXT_HEADER
from overlay.ipsec.interface import Drop, Lifetime, SaIdentity, Spi
from overlay.ipsec.lifetimes import RekeyLimits, draw_lifetime
from overlay.ipsec.replay import MAX_START
from overlay.ipsec.suites import SUITES
from overlay.ipsec.transforms import new_transform

ALICE, MIX = Endpoint("198.51.100.1", 4500), Endpoint("198.51.100.2", 4500)
PACKET = ipv4(INNER_V4, BOB_V4, b"anonymous")
FIRST = 0x5000

every_suite = pytest.mark.parametrize("suite", SUITES, ids=[s.name for s in SUITES.values()])


class Pair:
    """Both ends of one link SA."""

    def __init__(self, *, start: int = 0, **options) -> None:
        ends: SaEnds = sa_ends(FIRST, (1, 1), ALICE.packed, MIX.packed, udp=(ALICE, MIX), **options)
        self.reported: list[SaIdentity] = []
        self.rng = Random(1)
        self.out = OutboundSa(ends.outbound, self.rng, self.reported.append, start=start)
        self.into = InboundSa(ends.inbound, self.rng, self.reported.append)

    def seal(self, packet: bytes = PACKET, now: float = NOW) -> bytes:
        sealed = self.out.seal(packet, IPV4 if packet[0] >> 4 == 4 else IPV6, now)
        assert isinstance(sealed, bytes)
        return sealed

    def drops(self, sa) -> dict[Drop, int]:
        return dict(sa.counters().drops)

    def plaintext_arrives(self, plaintext: bytes) -> bytes | Drop:
        """Seal a padded plaintext of our choice, as a peer with the keys could."""
        value = self.out.value
        transform = new_transform(
            SUITES[value.suite], value.keymat.reveal(), value.spi, self.rng, esn=value.esn
        )
        return self.into.open(transform.seal(self.into.highest + 1, plaintext), 0, NOW)


@every_suite
@pytest.mark.parametrize("esn", [False, True])
def test_a_packet_comes_out_as_it_went_in(suite, esn):
    pair = Pair(suite=suite, esn=esn)
    for size in range(20):
        packet = ipv4(INNER_V4, BOB_V4, bytes(size))
        assert pair.into.open(pair.seal(packet), 0, NOW) == packet


@every_suite
def test_every_truncated_packet_is_dropped(suite):
    pair = Pair(suite=suite)
    sealed = pair.seal()
    for size in range(len(sealed)):
        assert isinstance(pair.into.open(sealed[:size], 0, NOW), Drop)
    assert pair.into.open(sealed, 0, NOW) == PACKET


@every_suite
@pytest.mark.parametrize("extra", [1, 4, 16])
def test_an_extended_packet_is_dropped(suite, extra):
    pair = Pair(suite=suite)
    assert pair.into.open(pair.seal() + bytes(extra), 0, NOW) is Drop.IN_STATE_PROTO_ERROR


@every_suite
def test_a_packet_with_any_bit_flipped_is_dropped_and_moves_no_window(suite):
    pair = Pair(suite=suite)
    sealed = pair.seal()
    # The SPI chooses the SA and is not compared again: an AEAD's is part of what it covers.
    for bit in range(32, len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(pair.into.open(bytes(flipped), 0, NOW), Drop)
    assert pair.into.counters().sequence == 0
    assert pair.into.open(sealed, 0, NOW) == PACKET


@every_suite
def test_a_packet_of_another_key_is_dropped(suite):
    pair, other = Pair(suite=suite), Pair(suite=suite, key_seed=99)
    assert pair.into.open(other.seal(), 0, NOW) is Drop.IN_STATE_PROTO_ERROR


@every_suite
def test_esn_and_plain_sequence_numbers_do_not_open_each_other(suite):
    esn, plain = Pair(suite=suite, esn=True), Pair(suite=suite, esn=False)
    assert plain.into.open(esn.seal(), 0, NOW) is Drop.IN_STATE_PROTO_ERROR
    assert esn.into.open(plain.seal(), 0, NOW) is Drop.IN_STATE_PROTO_ERROR


def test_a_replayed_packet_is_dropped_before_it_is_decrypted():
    pair = Pair()
    sealed = pair.seal()
    pair.into.open(sealed, 0, NOW)
    broken = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    assert pair.into.open(broken, 0, NOW) is Drop.IN_STATE_SEQ_ERROR


def test_a_replayed_packet_does_not_move_the_window():
    pair = Pair()
    first, second = pair.seal(), pair.seal()
    pair.into.open(second, 0, NOW)
    assert pair.into.open(second, 0, NOW) is Drop.IN_STATE_SEQ_ERROR
    assert pair.into.open(first, 0, NOW) == PACKET
    assert pair.into.counters().packets == 2


def test_reordered_packets_all_arrive_once():
    pair = Pair(replay_window=32)
    sealed = [pair.seal() for _ in range(32)]
    assert [pair.into.open(esp, 0, NOW) for esp in reversed(sealed)] == [PACKET] * 32
    assert pair.into.open(sealed[7], 0, NOW) is Drop.IN_STATE_SEQ_ERROR


@pytest.mark.parametrize(
    ("esn", "drop"),
    # With ESN such a number stands for one of the next subspace, which does not authenticate.
    [(False, Drop.IN_STATE_SEQ_ERROR), (True, Drop.IN_STATE_PROTO_ERROR)],
)
def test_a_packet_left_of_the_window_is_dropped(esn, drop):
    pair = Pair(replay_window=32, esn=esn)
    sealed = [pair.seal() for _ in range(33)]
    pair.into.open(sealed[32], 0, NOW)
    assert pair.into.open(sealed[0], 0, NOW) is drop
    assert pair.into.open(sealed[1], 0, NOW) == PACKET


def test_packets_go_on_over_the_rollover_of_the_low_half():
    pair = Pair(esn=True, start=2**32 - 3)
    advance(pair.into, pair.out.value, 2**32 - 3)
    for _ in range(6):
        assert pair.into.open(pair.seal(), 0, NOW) == PACKET
    assert pair.into.counters().sequence == 2**32 + 3


def test_without_esn_the_sequence_number_never_wraps():
    pair = Pair(esn=False, start=2**32 - 2)
    assert pair.seal()[4:8] == b"\xff\xff\xff\xff"
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_SEQ_ERROR
    assert pair.out.counters().sequence == 2**32 - 1
    assert pair.drops(pair.out) == {Drop.OUT_STATE_SEQ_ERROR: 1}


def test_esn_never_wraps_either():
    pair = Pair(esn=True, start=2**64 - 1)
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_SEQ_ERROR


def test_the_end_of_the_sequence_space_is_reported_well_before():
    pair = Pair(esn=False, start=2**32 - 801)  # 800 numbers are left
    for _ in range(700):
        pair.seal()
    assert pair.reported == []
    pair.seal()
    assert pair.reported == [SaIdentity(Spi(FIRST), MIX.packed)]


def test_iv_of_an_aead_never_repeats():
    pair = Pair()
    assert len({pair.seal()[8:16] for _ in range(100)}) == 100


def test_iv_of_a_second_sa_with_the_same_key_is_another():
    ends = sa_ends(FIRST, (1, 1), ALICE.packed, MIX.packed, udp=(ALICE, MIX))
    rng = Random(5)
    sas = [OutboundSa(ends.outbound, rng, lambda _: None) for _ in range(2)]
    ivs = [sa.seal(PACKET, IPV4, NOW)[8:16] for sa in sas]
    assert ivs[0] != ivs[1]


@pytest.mark.parametrize("suite", [5, 8, 11])
def test_iv_of_cbc_comes_from_the_generator(suite):
    pair = Pair(suite=suite)
    size = SUITES[suite].iv_bytes
    expected = Random(1).randbytes(size)
    assert pair.seal()[8 : 8 + size] == expected


# Limits


def test_soft_packets_are_reported_once_and_hard_packets_end_the_sa():
    pair = Pair(lifetime=Lifetime(soft_packets=2, hard_packets=4))
    sealed = [pair.seal() for _ in range(4)]
    assert pair.reported == [pair.out.value.identity]
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_EXPIRED
    assert pair.out.counters().packets == 4
    assert [pair.into.open(esp, 0, NOW) for esp in sealed] == [PACKET] * 4
    value = replace(pair.out.value, lifetime=Lifetime())
    pair.out = OutboundSa(value, Random(2), lambda _: None, start=4)
    assert pair.into.open(pair.seal(), 0, NOW) is Drop.IN_STATE_EXPIRED


def test_hard_bytes_end_the_sa():
    pair = Pair(lifetime=Lifetime(hard_bytes=2 * len(PACKET)))
    pair.seal()
    pair.seal()
    assert pair.reported == [pair.out.value.identity]
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_EXPIRED


def test_seconds_count_from_the_start():
    pair = Pair(lifetime=Lifetime(soft_s=10, hard_s=20))
    pair.out.start(NOW)
    pair.into.start(NOW)
    late = pair.seal(now=NOW + 9.9)
    assert pair.reported == []
    pair.seal(now=NOW + 10)
    assert pair.reported == [pair.out.value.identity]
    assert pair.out.seal(PACKET, IPV4, NOW + 20) is Drop.OUT_STATE_EXPIRED
    assert pair.into.open(late, 0, NOW + 20) is Drop.IN_STATE_EXPIRED


def test_hard_seconds_alone_are_reported_before_they_end():
    pair = Pair(lifetime=Lifetime(hard_s=80))
    pair.out.start(NOW)
    pair.seal(now=NOW + 69)
    assert pair.reported == []
    pair.seal(now=NOW + 70)
    assert pair.reported == [pair.out.value.identity]
    pair.seal(now=NOW + 79)


def test_seconds_do_not_count_before_the_start():
    pair = Pair(lifetime=Lifetime(soft_s=10, hard_s=20))
    pair.seal(now=NOW + math.pi * 1e9)


def test_3des_seals_no_more_than_its_block_size_allows():
    pair = Pair(suite=11)
    pair.out.payload_bytes = 2**23 - len(PACKET)
    pair.seal()
    assert pair.reported == [pair.out.value.identity]
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_EXPIRED


def test_too_many_forgeries_end_an_sa_and_are_reported_before(monkeypatch):
    limited = {**SUITES, 4: replace(SUITES[4], max_forgeries=6)}
    monkeypatch.setattr(esp, "SUITES", limited)
    pair = Pair(suite=4)
    sealed = pair.seal()
    forged = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    for _ in range(2):
        assert pair.into.open(forged, 0, NOW) is Drop.IN_STATE_PROTO_ERROR
    assert pair.reported == []
    assert pair.into.open(forged, 0, NOW) is Drop.IN_STATE_PROTO_ERROR
    assert pair.reported == [pair.into.value.identity]
    assert pair.into.open(sealed, 0, NOW) == PACKET
    later = pair.seal()
    for _ in range(3):
        forgery = later[:-1] + bytes((later[-1] ^ 1,))
        assert pair.into.open(forgery, 0, NOW) is Drop.IN_STATE_PROTO_ERROR
    assert pair.into.open(later, 0, NOW) is Drop.IN_STATE_EXPIRED
    assert pair.into.open(later, 0, NOW) is Drop.IN_STATE_EXPIRED


# Padding


def test_tfc_padding_makes_packets_of_one_size_and_is_taken_off():
    pair = Pair(tfc_pad_to=1000)
    small, large = ipv4(INNER_V4, BOB_V4, b""), ipv6(bytes(16), bytes(16), bytes(900))
    sealed = [pair.seal(small), pair.seal(large), pair.out.seal_dummy(NOW)]
    assert len({len(esp) for esp in sealed}) == 1
    assert [pair.into.open(esp, 0, NOW) for esp in sealed] == [small, large, Drop.DUMMY]


def test_packets_larger_than_the_tfc_padding_are_sent_as_they_are():
    pair = Pair(tfc_pad_to=100)
    packet = ipv4(INNER_V4, BOB_V4, bytes(300))
    assert pair.into.open(pair.seal(packet), 0, NOW) == packet


def test_a_dummy_packet_is_dropped_without_error_and_advances_the_window():
    pair = Pair()
    dummy = pair.out.seal_dummy(NOW)
    assert pair.into.open(dummy, 0, NOW) is Drop.DUMMY
    assert pair.into.open(dummy, 0, NOW) is Drop.IN_STATE_SEQ_ERROR
    assert pair.into.counters().packets == 1


@pytest.mark.parametrize("pad", [1, 2, 200, 255])
def test_any_padding_that_counts_is_accepted(pad):
    trailer = bytes(range(1, pad + 1)) + bytes((pad, IPV4))
    assert Pair().plaintext_arrives(PACKET + trailer) == PACKET


@pytest.mark.parametrize(
    ("plaintext", "drop"),
    [
        (PACKET + bytes((1, 3, 2, IPV4)), Drop.IN_STATE_PROTO_ERROR),
        (PACKET + bytes((0, 0, 2, IPV4)), Drop.IN_STATE_PROTO_ERROR),
        (bytes((1, 2, 250, IPV4)), Drop.IN_STATE_PROTO_ERROR),
        (PACKET + bytes((0, 17)), Drop.IN_STATE_PROTO_ERROR),
        (PACKET + bytes((0, IPV6)), Drop.IN_HDR_ERROR),
        (ipv6(bytes(16), bytes(16), b"") + bytes((0, IPV4)), Drop.IN_HDR_ERROR),
        (PACKET[:-1] + bytes((0, IPV4)), Drop.IN_HDR_ERROR),
        (PACKET[:19] + bytes((0, IPV4)), Drop.IN_HDR_ERROR),
        (b"\x44" + PACKET[1:] + bytes((0, IPV4)), Drop.IN_HDR_ERROR),
        (ipv6(bytes(16), bytes(16), b"x")[:-1] + bytes((0, IPV6)), Drop.IN_HDR_ERROR),
        (b"\x60" + bytes(38) + bytes((0, IPV6)), Drop.IN_HDR_ERROR),
        (bytes((1, 1, IPV6)), Drop.IN_HDR_ERROR),
        (bytes((1, 2, 2, NO_NEXT_HEADER)), Drop.DUMMY),
    ],
)
def test_a_peer_with_the_keys_cannot_pass_a_malformed_packet(plaintext, drop):
    assert Pair().plaintext_arrives(plaintext) is drop


def test_a_payload_that_fits_no_tunnel_is_dropped():
    pair = Pair()
    assert pair.out.seal(bytes(65_400), NO_NEXT_HEADER, NOW) is Drop.OUT_ERROR
    assert pair.out.counters().packets == 0


def test_counters_tell_what_passed():
    pair = Pair()
    pair.into.open(pair.seal(now=NOW + 1), 0, NOW + 2)
    sent, received = pair.out.counters(), pair.into.counters()
    assert (sent.packets, sent.payload_bytes, sent.sequence) == (1, len(PACKET), 1)
    assert (received.packets, received.payload_bytes, received.sequence) == (1, len(PACKET), 1)
    assert (sent.last_used, received.last_used) == (NOW + 1, NOW + 2)
    assert sent.drops == received.drops == ()


@every_suite
def test_key_material_has_the_size_that_its_suite_tells(suite):
    assert len(keymat(suite, 1)) == SUITES[suite].keymat_bytes


# Where sequence numbers begin


def sequence_of(esp: bytes) -> int:
    return int.from_bytes(esp[4:8], "big")


def test_sequence_numbers_begin_at_random_and_grow_by_one():
    rng = Random(4)
    value = sa_ends(FIRST, (1, 1), ALICE.packed, MIX.packed, udp=(ALICE, MIX)).outbound
    sas = [OutboundSa(value, rng, lambda _: None) for _ in range(200)]
    numbers = [[sequence_of(sa.seal(PACKET, IPV4, NOW)) for _ in range(3)] for sa in sas]
    assert all(second == first + 1 and third == first + 2 for first, second, third in numbers)
    firsts = sorted(first for first, _, _ in numbers)
    assert 0 < firsts[0] < 2**26
    assert 2**31 - 2**26 < firsts[-1] <= 2**31
    assert all(sa.counters().packets == 3 for sa in sas)


def test_dummies_and_packets_share_one_counter():
    value = sa_ends(FIRST, (1, 1), ALICE.packed, MIX.packed, udp=(ALICE, MIX)).outbound
    sa = OutboundSa(value, Random(4), lambda _: None)
    sealed = [sa.seal_dummy(NOW), sa.seal(PACKET, IPV4, NOW), sa.seal_dummy(NOW)]
    first, second, third = (sequence_of(esp) for esp in sealed)
    assert (second, third) == (first + 1, first + 2)
    assert first > 1


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("start", [0, 1023, 2**30, MAX_START])
def test_a_receiver_takes_any_first_number_and_reorders_around_it(esn, start):
    pair = Pair(esn=esn, start=start)
    sealed = [pair.seal() for _ in range(4)]
    for index in (2, 0, 3, 1):
        assert pair.into.open(sealed[index], 0, NOW) == PACKET
    assert [pair.into.open(esp, 0, NOW) for esp in sealed] == [Drop.IN_STATE_SEQ_ERROR] * 4
    assert pair.into.counters().sequence == start + 4


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("start", [0, MAX_START])
def test_limits_count_packets_wherever_the_numbers_begin(esn, start):
    pair = Pair(esn=esn, start=start, lifetime=Lifetime(soft_packets=3, hard_packets=5))
    for sealed in [pair.seal() for _ in range(3)]:
        pair.into.open(sealed, 0, NOW)
    assert pair.reported == []
    pair.seal()
    assert pair.reported == [pair.out.value.identity]
    pair.seal()
    assert pair.out.seal(PACKET, IPV4, NOW) is Drop.OUT_STATE_EXPIRED
    assert pair.out.counters().packets == 5


@pytest.mark.parametrize("esn", [False, True])
def test_the_soft_limit_comes_long_before_the_numbers_end_wherever_they_begin(esn):
    limits = RekeyLimits(soft_s=None, hard_s=60, soft_bytes=2**62, soft_packets=2**31)
    for seed in range(20):
        lifetime = draw_lifetime(limits, 3, Random(seed), esn=esn)
        last = 2**64 - 1 if esn else 2**32 - 1
        assert MAX_START + 2 * lifetime.soft_packets <= last
