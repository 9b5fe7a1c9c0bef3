"""When an overlay counts as recovered from a shock, judged by made-up lookups."""

from types import SimpleNamespace

import pytest

from sims.world.measures.recovery import RecoveryMeasure

SHOCK_S, HEALED_S, END_S = 600.0, 900.0, 1800.0


def measured(succeeds, *, end_s=END_S):
    """Ten lookups a minute; ``succeeds(time, number)`` tells which find what they look for."""
    world, said = SimpleNamespace(time_s=0.0), []
    recorder = SimpleNamespace(world=world, add=lambda metric, value: said.append((metric, value)))
    measure = RecoveryMeasure(recorder, SHOCK_S, HEALED_S)
    while world.time_s < end_s:
        for number in range(10):
            world.time_s += 6.0
            measure.finished(succeeds(world.time_s, number))
        measure.sample()
    measure.end()
    return said


@pytest.mark.parametrize(
    ("well_again_s", "recovery_s"), [(HEALED_S, 60.0), (HEALED_S + 300, 360.0)]
)
def test_it_ends_with_the_first_interval_as_good_as_before(well_again_s, recovery_s):
    said = measured(lambda now, n: not SHOCK_S < now <= well_again_s or n < 5)
    assert said == [("recovery_s", recovery_s), ("recovered", 1.0)]


def test_an_overlay_that_was_never_better_recovers_to_its_former_state():
    assert measured(lambda now, n: n < 5) == [("recovery_s", 60.0), ("recovered", 1.0)]


@pytest.mark.parametrize(
    "succeeds",
    [
        pytest.param(lambda now, n: now <= SHOCK_S, id="never again"),
        pytest.param(lambda now, n: False, id="never at all"),
        pytest.param(lambda now, n: now > HEALED_S, id="never before"),
        pytest.param(lambda now, n: now == 6.0, id="hardly ever before and never again"),
    ],
)
def test_one_that_never_comes_counts_with_the_time_until_the_end(succeeds):
    assert measured(succeeds) == [("recovered", 0.0), ("recovery_s", END_S - HEALED_S)]


def test_a_run_that_ends_before_the_healing_says_nothing():
    assert measured(lambda now, n: True, end_s=HEALED_S) == []
