"""Parts that are driven by deadlines, together with the events of the heap."""

import math

import pytest

from sims.world.engine.deadlines import NotAtRest, run_with_deadlines
from sims.world.engine.heap import EventHeap


class Ticker:
    """Does something at fixed times, and notes it."""

    def __init__(self, name, notes, *times):
        self.name, self.notes, self.times = name, notes, list(times)

    def next_deadline(self):
        return self.times[0] if self.times else math.inf

    def handle_deadline(self, now):
        self.times.pop(0)
        self.notes.append((now, self.name))


def test_events_and_deadlines_run_in_order_of_time_and_events_first():
    heap, notes = EventHeap(), []
    heap.at(2.0, lambda name, _: notes.append((heap.now, name)), "event")
    parts = [Ticker("a", notes, 2.0, 5.0), Ticker("b", notes, 1.0)]
    assert not run_with_deadlines(heap, 4.0, lambda: parts)
    assert notes == [(1.0, "b"), (2.0, "event"), (2.0, "a")]
    assert heap.now == 4.0


def test_a_deadline_in_the_past_is_handled_now():
    heap, notes = EventHeap(10.0), []
    run_with_deadlines(heap, 11.0, lambda: [Ticker("a", notes, 3.0)] if not notes else [])
    assert notes == [(10.0, "a")]


def test_a_run_stops_as_soon_as_it_may():
    heap, notes = EventHeap(), []
    parts = [Ticker("a", notes, 1.0, 2.0, 3.0)]
    assert run_with_deadlines(heap, 9.0, lambda: parts, lambda: len(notes) == 2)
    assert heap.now == 2.0
    assert not run_with_deadlines(heap, 9.0, lambda: parts, lambda: len(notes) == 4)
    assert heap.now == 9.0


def test_a_part_that_never_rests_is_an_error():
    heap, notes = EventHeap(), []
    parts = [Ticker("a", notes, 1.0, 1.0)]
    with pytest.raises(NotAtRest):
        run_with_deadlines(heap, 9.0, lambda: parts)


def test_parts_may_come_and_go_during_the_run():
    heap, notes = EventHeap(), []
    parts = [Ticker("a", notes, 3.0)]
    heap.at(1.0, lambda *_: parts.append(Ticker("b", notes, 2.0)))
    heap.at(2.5, lambda *_: parts.pop(0))
    run_with_deadlines(heap, 9.0, lambda: parts)
    assert notes == [(2.0, "b")]
