import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.ipsec.replay import ReplayWindow


class SetWindow:
    """RFC 4303 said as plainly as possible: remember everything that was seen."""

    def __init__(self, size: int, start: int) -> None:
        self.size = size
        self.highest = start
        self.seen: set[int] = set(range(start - size, start + 1))

    def accepts(self, sequence: int) -> bool:
        return sequence >= 1 and sequence > self.highest - self.size and sequence not in self.seen

    def accept(self, sequence: int) -> None:
        self.seen.add(sequence)
        self.highest = max(self.highest, sequence)


STEPS = st.lists(st.integers(-200, 300) | st.integers(-5, 5), max_size=60)
SIZES = st.sampled_from([1, 2, 32, 64, 100])


@pytest.mark.slow
@given(STEPS, SIZES)
def test_window_without_esn_is_a_set_of_numbers(steps, size):
    window, model = ReplayWindow(size, esn=False), SetWindow(size, 0)
    for step in steps:
        sequence = max(0, model.highest + step)
        expected = sequence if model.accepts(sequence) else 0
        assert window.check(sequence) == expected
        if expected:
            window.advance(expected)
            model.accept(expected)


@pytest.mark.slow
@given(STEPS, SIZES, st.sampled_from([0, 50, 2**32 - 100, 2**32 + 10, 7 * 2**32 - 1]))
def test_window_with_esn_is_a_set_of_full_numbers(steps, size, start):
    """A sender's full number is recovered from its low half whenever the window may take it."""
    window, model = ReplayWindow(size, esn=True), SetWindow(size, start)
    window.highest = start
    for step in steps:
        sequence = max(0, model.highest + step)
        guess = window.check(sequence & 0xFFFFFFFF)
        if model.accepts(sequence):
            assert guess == sequence
            window.advance(guess)
            model.accept(sequence)
        else:
            # A late number is taken for one of the next subspace: it will not authenticate.
            assert guess != sequence or guess == 0
            assert guess == 0 or guess > model.highest
