"""The search for a link's largest datagram, over paths that change and lose packets."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from overlay.link.size_search import (
    BASE_BYTES,
    CONFIRM_S,
    GRAIN_BYTES,
    MAX_PROBES,
    MIN_BYTES,
    RAISE_S,
    SizeSearch,
)

LARGEST = 1472
sizes = st.integers(MIN_BYTES, LARGEST)


def run(search, now, until, limit, lost=lambda: False):
    """Carry probes until a time; return how many were sent."""
    sent = 0
    while search.deadline <= until:
        now = max(now, search.deadline)
        size = search.probe(now)
        assert search.deadline > now, "it asks for the past"
        if size is None:
            continue
        sent += 1
        assert MIN_BYTES <= size <= LARGEST
        if size <= limit and not lost():
            search.answered(size, now + 0.01)
    return sent


@given(sizes)
def test_it_finds_what_the_line_carries_and_then_rests(limit):
    search = SizeSearch(LARGEST, 0.0)
    run(search, 0.0, 60.0, limit)
    assert search.is_complete
    assert limit - GRAIN_BYTES < search.usable <= limit
    assert run(search, 60.0, 560.0, limit) <= 500 / CONFIRM_S + 1


@given(sizes, sizes)
def test_a_line_that_becomes_narrow_is_noticed_within_the_confirmation_time(before, after):
    search = SizeSearch(LARGEST, 0.0)
    run(search, 0.0, 100.0, before)
    run(search, 100.0, 100.0 + CONFIRM_S + 3 * MAX_PROBES + 2, after)
    assert search.usable <= max(after, BASE_BYTES if after >= BASE_BYTES else MIN_BYTES)
    run(search, 140.0, 240.0, after)
    assert min(after, before) - GRAIN_BYTES < search.usable <= after


@given(sizes, sizes)
def test_a_line_that_becomes_wide_is_used_after_a_while(before, after):
    search = SizeSearch(LARGEST, 0.0)
    run(search, 0.0, 100.0, before)
    run(search, 100.0, 2 * RAISE_S + 200, after)
    assert after - GRAIN_BYTES < search.usable <= after


@pytest.mark.slow
@given(sizes, st.lists(st.booleans(), max_size=400))
def test_loss_never_makes_it_use_what_does_not_pass(limit, losses):
    search = SizeSearch(LARGEST, 0.0)
    drawn = iter(losses)
    run(search, 0.0, 300.0, limit, lambda: next(drawn, False))
    assert search.usable <= max(limit, BASE_BYTES)
    run(search, 300.0, 2 * RAISE_S + 400, limit)
    assert limit - GRAIN_BYTES < search.usable <= limit


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(-5, 70_000), st.floats(0, 5)), max_size=50))
def test_answers_of_any_size_do_no_harm(answers):
    search, now = SizeSearch(LARGEST, 0.0), 0.0
    for size, pause in answers:
        now += pause
        search.answered(size, now)
        search.probe(now)
        assert MIN_BYTES <= search.usable <= LARGEST


def test_a_silent_peer_gets_few_probes_and_the_base_size_stays():
    search = SizeSearch(LARGEST, 0.0)
    assert run(search, 0.0, 300.0, 0) < 150
    assert search.usable in (BASE_BYTES, MIN_BYTES)


def test_a_largest_size_below_the_base_is_refused():
    with pytest.raises(ValueError, match="at least 1200"):
        SizeSearch(1199, 0.0)
