"""Packets cut for a link and joined behind it."""

import hypothesis.strategies as st
from hypothesis import given

from overlay.ipsec.pieces import FRAGMENT, MAX_PIECES, Pieces, cut

ENDS = bytes(range(32))


def packet_of(body, protocol=50):
    return b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes((protocol, 64)) + ENDS + body


bodies = st.binary(min_size=1, max_size=2500)


@given(bodies, st.integers(576, 1500), st.integers(0, 2**32 - 1), st.randoms())
def test_pieces_in_any_order_become_the_packet_again(body, largest, number, order):
    packet = packet_of(body)
    pieces = cut(packet, largest, number)
    assert all(len(piece) <= largest for piece in pieces)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 8 * MAX_PIECES
    order.shuffle(pieces)
    waiting = Pieces()
    results = [waiting.add(piece, 0.0) for piece in pieces]
    assert results[-1] == packet
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert len(waiting) == 0


@given(bodies, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 12)), max_size=20))
def test_copies_and_losses_never_yield_another_packet(body, deliveries):
    packets = [packet_of(bytes((n,)) + body) for n in range(13)]
    waiting = Pieces()
    for piece, which in deliveries:
        pieces = cut(packets[which], 576, which)
        whole = waiting.add(pieces[piece % len(pieces)], 0.0)
        assert whole in (None, packets[which])


@given(st.lists(st.binary(max_size=200), max_size=60))
def test_any_bytes_are_survived_within_bounds(tails):
    waiting = Pieces()
    for tail in tails:
        waiting.add(packet_of(tail, FRAGMENT), 0.0)
        assert len(waiting) <= 16


def test_a_piece_that_comes_too_late_completes_nothing():
    first, second = cut(packet_of(bytes(1000)), 700, 1)
    waiting = Pieces()
    waiting.add(first, 0.0)
    assert waiting.add(second, 6.0) is None


def test_what_needs_too_many_pieces_is_not_cut():
    assert cut(packet_of(bytes(9000)), 576, 1) is None
    assert cut(b"\x45" + bytes(1999), 576, 1) is None
    assert cut(packet_of(bytes(1000), FRAGMENT), 576, 1) is None
