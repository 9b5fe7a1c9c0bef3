import itertools
import math
import statistics
from random import Random

import pytest

from lab.paper.estimators import (
    estimate,
    jitter_of_train,
    rfc3550_jitter,
    without_held_up,
)


def test_jitter_follows_the_rule_of_rfc_3550():
    # J(i) = J(i-1) + (|D(i-1,i)| - J(i-1)) / 16
    first = 16 / 16
    second = first + (8 - first) / 16
    assert rfc3550_jitter([0, 16, 8]) == [first, second]


def test_a_constant_transit_time_has_no_jitter():
    assert jitter_of_train([3.5] * 40) == 0


def test_jitter_of_a_long_train_is_the_mean_difference():
    rng = Random(1)
    transits = [rng.gauss(5, 0.2) for _ in range(20_000)]
    differences = [abs(b - a) for a, b in itertools.pairwise(transits)]
    assert jitter_of_train(transits) == pytest.approx(statistics.fmean(differences), rel=0.01)


def test_packets_that_the_host_held_up_are_left_out():
    rng = Random(3)
    steady = [rng.gauss(5, 0.1) for _ in range(40)]
    disturbed = [*steady[:10], 9.0, *steady[10:30], 15.0, *steady[30:]]
    assert without_held_up(disturbed) == without_held_up(steady) == steady


def test_a_train_too_short_for_jitter_is_refused():
    with pytest.raises(ValueError, match="needs more than"):
        jitter_of_train([1.0] * 17)


def test_a_single_value_has_an_infinite_interval():
    assert estimate([2.0]).half_width == math.inf


def test_few_values_have_students_interval():
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.count) == (2.5, 4)
    assert found.half_width == pytest.approx(3.18245 * statistics.stdev([1, 2, 3, 4]) / 2, rel=1e-5)


def test_a_spoilt_visit_does_not_move_the_mean():
    quiet = [5.0, 5.1, 4.9, 5.0, 5.1]
    spoilt = [5.0, 5.1, 4.9, 5.0, 50.0]
    assert estimate(spoilt).mean == pytest.approx(estimate(quiet).mean, abs=0.05)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = Random(2)
    covering = 0
    for _ in range(1000):
        found = estimate([rng.gauss(10, 1) for _ in range(10)])
        covering += found.low <= 10 <= found.high
    assert 0.93 <= covering / 1000 <= 0.97


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values to estimate"):
        estimate([])
