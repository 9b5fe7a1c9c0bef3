"""Packets cut for a link and joined behind it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from overlay.ipsec.pieces import (
    FRAGMENT,
    MAX_INCOMPLETE,
    MAX_OF_LINK,
    MAX_PIECES,
    Pieces,
    cut,
)

ENDS = bytes(range(32))
LINK = 7


def packet_of(body, protocol=50):
    return b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes((protocol, 64)) + ENDS + body


bodies = st.binary(min_size=1, max_size=2500)


@pytest.mark.slow
@given(bodies, st.integers(576, 1500), st.integers(0, 2**32 - 1), st.randoms())
def test_pieces_in_any_order_become_the_packet_again(body, largest, number, order):
    packet = packet_of(body)
    pieces = cut(packet, largest, number)
    assert all(len(piece) <= largest for piece in pieces)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 8 * MAX_PIECES
    order.shuffle(pieces)
    waiting = Pieces()
    results = [waiting.add(LINK, piece, 0.0) for piece in pieces]
    assert results[-1] == packet
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert len(waiting) == 0


@pytest.mark.slow
@given(bodies, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 12)), max_size=20))
def test_copies_and_losses_never_yield_another_packet(body, deliveries):
    packets = [packet_of(bytes((n,)) + body) for n in range(13)]
    waiting = Pieces()
    for piece, which in deliveries:
        pieces = cut(packets[which], 576, which)
        whole = waiting.add(LINK, pieces[piece % len(pieces)], 0.0)
        assert whole in (None, packets[which])


@given(st.lists(st.binary(max_size=200), max_size=60))
def test_any_bytes_are_survived_within_bounds(tails):
    waiting = Pieces()
    for tail in tails:
        waiting.add(LINK, packet_of(tail, FRAGMENT), 0.0)
        assert len(waiting) <= MAX_OF_LINK


def test_a_piece_that_comes_too_late_completes_nothing():
    first, second = cut(packet_of(bytes(1000)), 700, 1)
    waiting = Pieces()
    waiting.add(LINK, first, 0.0)
    assert waiting.add(LINK, second, 6.0) is None


def test_what_needs_too_many_pieces_is_not_cut():
    assert cut(packet_of(bytes(9000)), 576, 1) is None
    assert cut(b"\x45" + bytes(1999), 576, 1) is None
    assert cut(packet_of(bytes(1000), FRAGMENT), 576, 1) is None


def test_links_together_have_a_bound_and_old_pieces_go():
    waiting = Pieces()
    first, second = cut(packet_of(bytes(1000)), 700, 1)
    for link in range(MAX_INCOMPLETE):
        for number in range(MAX_OF_LINK + 1):
            waiting.add(link, cut(packet_of(bytes(1000)), 700, number)[0], 0.0)
            assert len(waiting) <= MAX_INCOMPLETE
    waiting.add(LINK, first, 1.0)
    assert waiting.add(LINK, second, 1.0) == packet_of(bytes(1000)), "the oldest gives way"
    waiting.add(LINK, first, 7.0)
    assert len(waiting) == 1


def test_a_piece_behind_the_end_is_no_part_of_a_packet():
    head, middle, tail = cut(packet_of(bytes(24)), 56, 1)
    last_in_the_middle = middle[:42] + bytes((0, 8)) + middle[44:]
    behind_the_end = tail[:42] + bytes((0, 16 | 1)) + tail[44:]
    waiting = Pieces()
    for piece in (head, behind_the_end, last_in_the_middle):
        assert waiting.add(LINK, piece, 0.0) is None
    assert len(waiting) == 0


def test_pieces_of_one_link_complete_no_packet_of_another():
    first, second = cut(packet_of(bytes(1000)), 700, 1)
    waiting = Pieces()
    waiting.add(LINK, first, 0.0)
    assert waiting.add(LINK + 1, second, 0.0) is None
