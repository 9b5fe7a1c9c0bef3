"""Compare closed forms with printed check values, and with points that were not printed."""

import math
from random import Random

import numpy as np
import pytest

from sims import special
from sims.acceptance.theory import disjoint_paths, eclipse, geometry, records, tables

# -- special functions


def test_incomplete_gamma_obeys_its_identities():
    for x in (0.01, 0.7, 3.0, 40.0):
        assert special.regularised_gamma_p(1.0, x) == pytest.approx(-math.expm1(-x), rel=1e-12)
        assert special.regularised_gamma_p(0.5, x) == pytest.approx(math.erf(x**0.5), rel=1e-10)
        poisson = sum(math.exp(-x) * x**n / math.factorial(n) for n in range(7))
        assert special.regularised_gamma_q(7.0, x) == pytest.approx(poisson, rel=1e-10)
    assert special.regularised_gamma_p(2.0, 0.0) == 0.0
    assert special.regularised_gamma_q(2.0, 0.0) == 1.0
    with pytest.raises(ValueError, match="needs"):
        special.regularised_gamma_p(0.0, 1.0)


@pytest.mark.parametrize(
    ("quantile", "degrees", "probability"),
    [(3.841, 1, 0.95), (22.164, 40, 0.01), (55.758, 40, 0.95), (18.307, 10, 0.95)],
)
def test_chi_squared_agrees_with_tables(quantile, degrees, probability):
    assert special.chi_squared_cdf(quantile, degrees) == pytest.approx(probability, abs=2e-5)


def test_binomial_sums_to_one_and_has_its_mean():
    pmf = [special.binomial_pmf(n, 50, 0.3) for n in range(51)]
    assert sum(pmf) == pytest.approx(1)
    assert sum(n * p for n, p in enumerate(pmf)) == pytest.approx(15)
    assert special.binomial_pmf(5, 5, 1.0) == 1.0
    assert special.binomial_pmf(-1, 5, 0.5) == 0.0


def test_kolmogorov_p_agrees_with_the_tables_critical_values():
    # Large samples: 1.358/sqrt(n) at 5 %, 1.628/sqrt(n) at 1 %.
    assert special.kolmogorov_p(1.358 / 100, 10_000) == pytest.approx(0.05, abs=0.001)
    assert special.kolmogorov_p(1.628 / 100, 10_000) == pytest.approx(0.01, abs=0.0005)
    assert special.kolmogorov_p(0.0, 100) == 1.0


# -- tables


@pytest.mark.parametrize(
    ("nodes", "first", "printed"),
    [
        (1000, 4, [20.0, 15.3, 7.78, 3.92, 1.94, 0.98]),
        (10_000, 7, [20.0, 17.99, 9.83, 4.85, 2.46]),
        (15_371, 8, [19.96, 14.8, 7.47, 3.71, 1.88, 0.95]),
    ],
)
def test_bucket_occupancy_is_the_printed_one(nodes, first, printed):
    for bucket, value in enumerate(printed, start=first):
        assert tables.bucket_occupancy(nodes, bucket, 20) == pytest.approx(value, rel=0.013)


@pytest.mark.parametrize(("nodes", "bucket", "k"), [(700, 3, 8), (333, 5, 20), (5000, 9, 3)])
def test_bucket_occupancy_agrees_with_draws_elsewhere(nodes, bucket, k):
    draws = np.random.default_rng(1).binomial(nodes - 1, 0.5 ** (bucket + 1), 100_000)
    drawn = np.minimum(draws, k).mean()
    assert tables.bucket_occupancy(nodes, bucket, k) == pytest.approx(drawn, rel=0.01)
    assert tables.bucket_occupancy(nodes, bucket, k) < min(k, (nodes - 1) * 0.5 ** (bucket + 1))


def knowledge_by_draws(nodes, k, at_least, trials):
    """Draw distances, keep a random k of each bucket, count the known among the k closest."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(trials):
        buckets = np.floor(-np.log2(np.sort(rng.random(nodes - 1)))).astype(int)
        members = np.flatnonzero(buckets == buckets[k - 1])
        known = k
        if len(members) > k:
            closer = int(members[0])
            known = closer + int(np.sum(rng.permutation(len(members))[:k] < k - closer))
        hits += known >= at_least
    return hits / trials


@pytest.mark.parametrize(
    ("nodes", "printed_all", "printed_below_18"),
    [(2000, 0.956, 0.006), (10_000, 0.921, 0.008), (15_371, 0.959, 0.001), (20_000, 0.909, 0.008)],
)
def test_neighbourhood_knowledge_is_the_printed_one(nodes, printed_all, printed_below_18):
    """The printed values come from single simulated networks, so only the tolerance of E4 holds."""
    assert tables.neighbourhood_knowledge(nodes, 20, 20) == pytest.approx(printed_all, abs=0.015)
    below = 1 - tables.neighbourhood_knowledge(nodes, 20, 18)
    assert below == pytest.approx(printed_below_18, abs=0.004)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "k", "at_least"), [(1000, 20, 20), (700, 8, 8), (3000, 10, 9), (200, 4, 3)]
)
def test_neighbourhood_knowledge_agrees_with_draws_elsewhere(nodes, k, at_least):
    drawn = knowledge_by_draws(nodes, k, at_least, 4000)
    assert tables.neighbourhood_knowledge(nodes, k, at_least) == pytest.approx(drawn, abs=0.016)
    assert tables.neighbourhood_knowledge(nodes, k, 0) == pytest.approx(1, abs=1e-6)


def test_neighbourhood_knowledge_refuses_nonsense():
    with pytest.raises(ValueError, match="at_least"):
        tables.neighbourhood_knowledge(100, 20, 21)


# -- hops and resilience


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "printed"),
    [(256, {1: 3.96, 8: 1.94, 20: 1.63}), (1024, {1: 4.94, 8: 2.40, 20: 1.94})],
)
def test_greedy_hops_are_the_printed_ones(nodes, printed):
    for k, value in printed.items():
        hops = geometry.greedy_hops(nodes, k, trials=1500, rng=np.random.default_rng(1))
        assert hops == pytest.approx(value, rel=0.04)


def test_hops_formula_gives_the_printed_values_and_is_somewhat_high():
    assert geometry.hops_formula(1024, 1) == 5
    assert geometry.hops_formula(16_384, 20) == pytest.approx(2.70, abs=0.005)
    assert geometry.hops_formula(256, 8) == pytest.approx(2.13, abs=0.005)
    assert [round(geometry.gain_bits(k), 2) for k in (8, 16, 20)] == [4.42, 5.38, 5.69]
    hops = geometry.greedy_hops(700, 8, trials=1500, rng=np.random.default_rng(2))
    assert hops < geometry.hops_formula(700, 8) < 1.13 * hops


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "k"), [(2, 1), (5, 1), (24, 1), (40, 3), (700, 5)])
def test_greedy_hops_agree_with_routes_over_drawn_ids(nodes, k):
    """The same by brute force: all ids are drawn, and buckets are filled from them."""
    rng = Random(f"{nodes} {k}")
    walked = [_hops_over_drawn_ids(nodes, k, rng) for _ in range(3000)]
    hops = geometry.greedy_hops(nodes, k, trials=10_000, rng=np.random.default_rng(3))
    assert hops == pytest.approx(sum(walked) / len(walked), rel=0.035)


def _hops_over_drawn_ids(nodes, k, rng):
    ids = rng.sample(range(1 << 62), nodes)
    here, target = rng.sample(ids, 2)
    hops = 0
    while here != target:
        size = 1 << ((here ^ target).bit_length() - 1)
        bucket = [one for one in ids if (one ^ target) < size]
        known = rng.sample(bucket, min(k, len(bucket)))
        here = min(known, key=lambda one: one ^ target)
        hops += 1
    return hops


@pytest.mark.parametrize(("nodes", "k"), [(50, 20), (200, 20), (1000, 20), (200, 8)])
def test_the_deviation_of_the_size_estimate_is_that_of_order_statistics(nodes, k):
    draws = (k - 1) / np.random.default_rng(4).beta(k, nodes - k + 1, 400_000)
    deviation = float(np.std(draws) / np.mean(draws))
    assert eclipse.estimate_deviation(k, nodes) == pytest.approx(deviation, rel=0.02)


def test_deviations_of_session_lengths_are_those_of_draws():
    rng = np.random.default_rng(5)
    weibull = float(np.std(3600 * rng.weibull(0.7, 1_000_000)))
    assert records.weibull_deviation(3600, 0.7) == pytest.approx(weibull, rel=0.02)
    pareto = float(np.std(3600 * rng.pareto(6.0, 1_000_000)))
    assert records.pareto_deviation(3600, 6.0) == pytest.approx(pareto, rel=0.02)
    assert records.pareto_deviation(3600, 2.0) == math.inf


def test_all_is_known_in_an_overlay_of_one_more_than_a_bucket():
    assert tables.neighbourhood_knowledge(21, 20, 20) == 1


def test_an_overlay_that_fits_one_bucket_takes_one_hop():
    assert geometry.greedy_hops(8, 20, trials=50, rng=np.random.default_rng(1)) == 1


@pytest.mark.parametrize(
    ("dead", "k", "printed"), [(0.1, 1, 0.933), (0.5, 1, 0.365), (0.2, 2, 0.955), (0.5, 4, 0.941)]
)
def test_static_resilience_is_the_printed_one(dead, k, printed):
    arrived = geometry.static_resilience(10, k, dead, trials=1200, rng=Random(1))
    assert arrived == pytest.approx(printed, abs=0.04)


def test_static_resilience_limits():
    assert geometry.static_resilience(8, 1, 0.0, trials=200, rng=Random(1)) == 1
    # All others dead: only who has the target as a contact arrives.
    alone = geometry.static_resilience(4, 16, 1.0, trials=200, rng=Random(1), distinct=True)
    assert alone == 1
    distinct = geometry.static_resilience(10, 2, 0.5, trials=800, rng=Random(1), distinct=True)
    assert distinct > geometry.static_resilience(10, 2, 0.5, trials=800, rng=Random(1))


# -- records and availability


def test_weibull_of_kad2007():
    assert records.weibull_mean(169.5385, 0.61511) == pytest.approx(247.14, abs=0.01)
    assert records.weibull_median(169.5385, 0.61511) == pytest.approx(93.43, abs=0.01)
    off = records.weibull_mean(413.6765, 0.47648)
    assert off == pytest.approx(907.99, abs=0.05)
    assert records.availability(247.143, off) == pytest.approx(0.2140, abs=1e-4)


@pytest.mark.parametrize(
    ("minutes", "new", "met"),
    [(60, 0.590, 0.823), (120, 0.446, 0.699), (360, 0.204, 0.407), (1440, 0.024, 0.071)],
)
def test_residual_lives_of_kad2007(minutes, new, met):
    assert records.weibull_survival(minutes, 169.5385, 0.61511) == pytest.approx(new, abs=6e-4)
    residual = records.weibull_residual_survival(minutes, 169.5385, 0.61511)
    assert residual == pytest.approx(met, abs=6e-4)


def test_weibull_of_shape_one_is_exponential():
    for age in (1.0, 30.0, 200.0):
        residual = records.weibull_residual_survival(age, 60.0, 1.0)
        assert residual == pytest.approx(records.exponential_residual_survival(age, 60.0))


@pytest.mark.parametrize(("k", "printed"), [(3, 0.747), (8, 0.9745), (20, 0.9999)])
def test_record_survival_is_the_printed_one(k, printed):
    def residual(age):
        return records.exponential_residual_survival(age, 60.0)

    assert records.record_survival(residual, 60.0, k) == pytest.approx(printed, abs=5e-4)
    assert records.record_survival(residual, 0.0, k) == 1.0


def test_online_deviation_is_binomial():
    assert records.online_deviation(2000, 0.214) == pytest.approx(18.34, abs=0.01)


# -- paths and rounds


@pytest.mark.parametrize(
    ("malicious", "length", "printed"),
    [
        (0.1, 3, (0.729, 0.927, 0.995, 1.000)),
        (0.2, 4, (0.410, 0.651, 0.879, 0.985)),
        (0.3, 5, (0.168, 0.308, 0.521, 0.771)),
        (0.5, 4, (0.062, 0.121, 0.227, 0.403)),
    ],
)
def test_disjoint_paths_are_the_printed_ones(malicious, length, printed):
    for count, value in zip((1, 2, 4, 8), printed, strict=True):
        success = disjoint_paths.disjoint_path_success(malicious, length, count)
        assert success == pytest.approx(value, abs=1e-3)


def test_disjoint_paths_of_unequal_length():
    mean = disjoint_paths.mean_disjoint_path_success(0.25, [[1, 2], [3, 3]])
    first = 1 - 0.25 * (1 - 0.75**2)
    assert mean == pytest.approx((first + disjoint_paths.disjoint_path_success(0.25, 3, 2)) / 2)


def test_rounds_that_wait_for_a_timeout():
    assert disjoint_paths.round_times_out(0.1, 3) == pytest.approx(0.27, abs=0.005)
    assert disjoint_paths.round_times_out(0.3, 3) == pytest.approx(0.66, abs=0.005)
    assert disjoint_paths.round_times_out(0.25, 1) == 0.25


# -- eclipse


@pytest.mark.parametrize(
    ("sybils", "printed", "tolerance"), [(20, 1.0, 0.01), (10, 0.65, 0.05), (5, 0.13, 0.05)]
)
def test_eclipse_power_is_the_printed_one(sybils, printed, tolerance):
    rng = np.random.default_rng(1)
    power = eclipse.eclipse_power(1000, 20, sybils, 0.01, trials=5000, rng=rng)
    assert power == pytest.approx(printed, abs=tolerance)


@pytest.mark.parametrize(("nodes", "k", "level"), [(1000, 20, 0.01), (300, 8, 0.05)])
def test_false_alarms_come_at_the_level_of_the_test(nodes, k, level):
    rng = np.random.default_rng(2)
    alarms = eclipse.eclipse_power(nodes, k, 0, level, trials=20_000, rng=rng)
    assert alarms == pytest.approx(level, rel=0.25)


@pytest.mark.parametrize(("k", "printed"), [(20, 0.236), (8, 0.408)])
def test_size_estimates_scatter_as_printed(k, printed):
    assert eclipse.estimate_deviation(k) == pytest.approx(printed, abs=5e-4)
    draws = np.random.default_rng(3).beta(k, 1000 - k + 1, 20_000)
    estimates = [eclipse.estimate_size([float(draw)], k) for draw in draws]
    assert np.mean(estimates) == pytest.approx(1000, rel=0.02)
    assert np.std(estimates) / np.mean(estimates) == pytest.approx(printed, rel=0.05)
    assert eclipse.estimate_deviation(k, lookups=4) == pytest.approx(printed / 2, abs=5e-4)
