"""A continuous budget against any order of arrivals, bursts at any phase and clock jumps."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.fair_rate import FairRate
from overlay.shares import groups_of
from overlay.work_budget import Work, WorkBudget

NOW = 1_800_000_000.0
RATE, HORIZON_S = 100.0, 1.0

hosts = st.builds(lambda *parts: groups_of(bytes(parts)), *[st.integers(1, 4)] * 4)
pauses = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 3))


@pytest.mark.slow
@given(st.lists(st.tuples(pauses, hosts, st.integers(1, 60)), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_window_admits_more_than_the_rate_and_one_burst(bursts):
    budget = FairRate(RATE, HORIZON_S)
    taken = []
    for now, (_, groups, times) in zip(
        accumulate((pause for pause, _, _ in bursts), initial=NOW), bursts, strict=False
    ):
        taken += [now for _ in range(times) if budget.take(groups, now)]
    for first, begin in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= RATE * (HORIZON_S + end - begin) + 1e-6


@pytest.mark.slow
@given(
    providers=st.integers(1, 5),
    burst_every_s=st.sampled_from([0.01, 0.05, 0.25, 1.0]),
    phase=st.floats(0, 1),
    work=st.sampled_from(list(Work)),
)
@settings(max_examples=60, deadline=None)
def test_bursts_of_some_providers_never_refuse_a_new_one(providers, burst_every_s, phase, work):
    """Whenever an honest node comes, before, amid or after a burst, its onions have room."""
    budget = WorkBudget()
    attackers = [groups_of(bytes((9, p, n, 1))) for p in range(providers) for n in range(4)]
    now, arrives = NOW, NOW + 2 + phase * burst_every_s
    while now < arrives:
        for groups in attackers:
            while budget.spend(work, groups, now):
                pass
        now += burst_every_s
    honest = groups_of(bytes((7, 7, 7, 7)))
    assert all(budget.spend(Work.ONION, honest, arrives) for _ in range(3))


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), hosts), max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_clock_that_jumps_neither_gives_for_nothing_nor_closes_for_good(jumps):
    budget, now, admitted = FairRate(RATE, HORIZON_S, least=0.1), NOW, 0
    room = RATE * HORIZON_S
    for jump, groups in jumps:
        room = min(RATE * HORIZON_S, room + RATE * max(0.0, jump))
        now += jump
        for _ in range(5):
            admitted = budget.take(groups, now)
            room -= admitted
            assert room > -1e-6
    assert budget.take(groups_of(bytes((7, 7, 7, 7))), now + 20)


@pytest.mark.slow
def test_what_is_remembered_is_bounded_by_what_was_admitted_lately():
    budget = FairRate(RATE, HORIZON_S, least=0.1)
    for step in range(20_000):
        host = groups_of(step.to_bytes(2, "big") * 2)
        budget.take(host, NOW + step / 1000)
    assert len(budget) <= 3 * RATE * 5


def test_a_budget_without_bound_admits_everything():
    budget = FairRate(math.inf, HORIZON_S)
    assert all(budget.take((), NOW, 1e9) for _ in range(10))
