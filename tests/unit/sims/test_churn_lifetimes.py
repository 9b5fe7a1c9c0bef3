import math
from random import Random

import numpy as np
import pytest

from sims.special import kolmogorov_p
from sims.world.churn.lifetimes import Exponential, Fixed, Observed, Pareto, Weibull

DISTRIBUTIONS = [
    Weibull(10_000.0, 0.61511),
    Weibull(500.0, 1.7),
    Exponential(3600.0),
    Pareto(1000.0, 3.5),
    Fixed(60.0),
    Observed([1.0, 2.0, 2.0, 10.0, 100.0]),
]
CONTINUOUS = DISTRIBUTIONS[:4]


def integral_of_survival(lifetimes, start):
    """Riemann sum on a grid that is fine near the start and coarse in the tail."""
    edges = np.concatenate([[0.0], np.geomspace(1e-3, 5e4 * lifetimes.mean(), 40_000)]) + start
    values = np.array([lifetimes.survival(edge) for edge in edges])
    return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(edges)))


def ks(draws, survival):
    ordered = np.sort(draws)
    fitted = np.array([1 - survival(x) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    statistic = max(np.max(steps[1:] - fitted), np.max(fitted - steps[:-1]))
    return kolmogorov_p(float(statistic), len(ordered))


@pytest.mark.parametrize("lifetimes", CONTINUOUS)
def test_mean_is_the_integral_of_the_survival(lifetimes):
    assert integral_of_survival(lifetimes, 0.0) == pytest.approx(lifetimes.mean(), rel=0.01)


@pytest.mark.parametrize("lifetimes", CONTINUOUS)
@pytest.mark.parametrize("age", [0.1, 1.0, 3.0])
def test_residual_survival_is_the_tail_integral_over_the_mean(lifetimes, age):
    at = age * lifetimes.mean()
    expected = integral_of_survival(lifetimes, at) / lifetimes.mean()
    assert lifetimes.residual_survival(at) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("lifetimes", CONTINUOUS)
def test_draws_follow_the_distribution_one_by_one_and_at_once(lifetimes):
    rng, many = Random(5), np.random.default_rng(5)
    single = np.array([lifetimes.sample(rng) for _ in range(4000)])
    assert ks(single, lifetimes.survival) > 0.01
    assert ks(lifetimes.samples(many, 20_000), lifetimes.survival) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("lifetimes", [*CONTINUOUS, Fixed(60.0)])
def test_residuals_follow_the_equilibrium_one_by_one_and_at_once(lifetimes):
    rng, many = Random(6), np.random.default_rng(6)
    single = np.array([lifetimes.residual(rng) for _ in range(4000)])
    assert ks(single, lifetimes.residual_survival) > 0.01
    assert ks(lifetimes.residuals(many, 20_000), lifetimes.residual_survival) > 0.01


def test_a_new_session_is_no_residual():
    """The test above would notice a start at age zero."""
    lifetimes = Weibull(10_000.0, 0.61511)
    draws = lifetimes.samples(np.random.default_rng(1), 4000)
    assert ks(draws, lifetimes.residual_survival) < 1e-6


def test_residual_of_a_trace_matches_its_closed_form():
    lifetimes = Observed([1.0, 2.0, 2.0, 10.0, 100.0])
    draws = lifetimes.residuals(np.random.default_rng(2), 50_000)
    single = np.array([lifetimes.residual(Random(seed)) for seed in range(3000)])
    for age in (0.0, 0.5, 1.5, 2.0, 9.0, 50.0, 99.0, 100.0):
        assert np.mean(draws > age) == pytest.approx(lifetimes.residual_survival(age), abs=0.01)
        assert np.mean(single > age) == pytest.approx(lifetimes.residual_survival(age), abs=0.04)


def test_exponential_is_memoryless():
    lifetimes = Exponential(3600.0)
    for age in (1.0, 3600.0, 40_000.0):
        assert lifetimes.residual_survival(age) == pytest.approx(lifetimes.survival(age), rel=1e-9)


def test_weibull_from_a_mean():
    assert Weibull.with_mean(1234.0, 0.6).mean() == pytest.approx(1234.0)


@pytest.mark.parametrize("lifetimes", DISTRIBUTIONS)
def test_nothing_drawn_is_negative_or_endless(lifetimes):
    rng = Random(1)
    draws = [lifetimes.sample(rng) for _ in range(500)] + [
        lifetimes.residual(rng) for _ in range(500)
    ]
    assert all(0 <= draw < math.inf for draw in draws)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Weibull(0.0, 1.0),
        lambda: Weibull(1.0, math.nan),
        lambda: Weibull(math.inf, 1.0),
        lambda: Exponential(-1.0),
        lambda: Pareto(1.0, 1.0),
        lambda: Fixed(0.0),
        lambda: Observed([]),
        lambda: Observed([1.0, -1.0]),
    ],
)
def test_impossible_distributions_are_refused(build):
    with pytest.raises(ValueError, match=r"must|needs"):
        build()


def test_what_is_left_of_a_session_is_a_number_also_next_to_the_least_shape():
    lifetimes = Pareto(60.0, 1.01)
    one_by_one = [lifetimes.residual(Random(seed)) for seed in range(5000)]
    at_once = lifetimes.residuals(np.random.default_rng(1), 5000)
    assert max(one_by_one) > 1e100
    assert max(at_once) > 1e100
    assert np.isfinite(one_by_one).all()
    assert np.isfinite(at_once).all()
