import pytest

from overlay.ipsec.replay import MAX_ESN, MAX_SEQUENCE, ReplayWindow


def accept(window: ReplayWindow, low: int) -> int:
    sequence = window.check(low)
    if sequence:
        window.advance(sequence)
    return sequence


@pytest.mark.parametrize("esn", [False, True])
def test_first_packet_has_number_1_and_0_is_no_number(esn):
    window = ReplayWindow(64, esn=esn)
    assert window.check(0) == 0
    assert accept(window, 1) == 1


@pytest.mark.parametrize("esn", [False, True])
def test_check_alone_moves_nothing(esn):
    window = ReplayWindow(64, esn=esn)
    assert window.check(50) == window.check(50) == 50
    assert window.highest == 0


@pytest.mark.parametrize("esn", [False, True])
def test_replayed_number_is_refused(esn):
    window = ReplayWindow(64, esn=esn)
    assert [accept(window, n) for n in (1, 2, 2, 1)] == [1, 2, 0, 0]


@pytest.mark.parametrize("esn", [False, True])
def test_reordered_numbers_are_accepted_once_each(esn):
    window = ReplayWindow(64, esn=esn)
    assert [accept(window, n) for n in (5, 3, 4, 1, 2, 3)] == [5, 3, 4, 1, 2, 0]


def test_left_edge_of_the_window_is_inside_and_its_neighbour_is_not():
    window = ReplayWindow(64, esn=False)
    accept(window, 100)
    assert window.check(100 - 63) == 37
    assert window.check(100 - 64) == 0


def test_a_jump_past_the_window_forgets_nothing_that_lies_in_it():
    window = ReplayWindow(64, esn=False)
    accept(window, 1)
    accept(window, 1000)
    assert window.check(1000 - 63) == 937
    assert window.check(1000) == 0
    assert window.check(1) == 0


def test_without_esn_the_last_number_is_accepted_and_nothing_follows():
    window = ReplayWindow(64, esn=False)
    assert accept(window, MAX_SEQUENCE) == MAX_SEQUENCE
    assert window.check(0) == 0
    assert window.check(1) == 0


@pytest.mark.parametrize(
    ("highest", "low", "expected"),
    [
        # Appendix A2, case A: the window lies within one subspace.
        (5 * 2**32 + 1000, 1001, 5 * 2**32 + 1001),
        (5 * 2**32 + 1000, 937 - 1, 6 * 2**32 + 936),
        (5 * 2**32 + 1000, MAX_SEQUENCE, 5 * 2**32 + MAX_SEQUENCE),
        # Case B: the window reaches into the subspace before.
        (5 * 2**32 + 10, 11, 5 * 2**32 + 11),
        (5 * 2**32 + 10, MAX_SEQUENCE - 60, 5 * 2**32 + MAX_SEQUENCE - 60),
        # The packet that rolls over.
        (2**32 - 1, 0, 2**32),
    ],
)
def test_esn_high_half_is_the_one_of_appendix_a2(highest, low, expected):
    window = ReplayWindow(64, esn=True)
    window.highest = highest
    assert window.check(low) == expected


def test_esn_accepts_what_was_late_when_the_low_half_rolled_over():
    window = ReplayWindow(64, esn=True)
    window.highest = MAX_SEQUENCE - 2
    assert accept(window, 3) == 2**32 + 3
    assert accept(window, MAX_SEQUENCE) == MAX_SEQUENCE
    assert accept(window, MAX_SEQUENCE) == 0


def test_esn_before_the_first_packet_takes_no_number_from_below_zero():
    window = ReplayWindow(64, esn=True)
    assert window.check(MAX_SEQUENCE) == 0


def test_esn_ends_at_its_last_number():
    window = ReplayWindow(64, esn=True)
    window.highest = MAX_ESN
    assert window.check(5) == 0
