"""The vectorised model's arithmetic against plain Python and against closed forms."""

import math

import numpy as np
import pytest

from overlay.dht.settings import DhtSettings
from sims.vectorised.lookups import look_up
from sims.vectorised.tables import ABSENT, Known, Tables
from sims.vectorised.xor import closest, common_prefix, subtree

NOBODY = np.array([], np.uint64)


def random_ids(rng, count):
    return np.sort(rng.integers(1, 2**64, count, dtype=np.uint64))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_the_closest_are_those_that_sorting_by_xor_gives(rng):
    ids, targets = random_ids(rng, 700), rng.integers(0, 2**64, 200, dtype=np.uint64)
    found = closest(ids, targets, 20)
    for target, row in zip(targets.tolist(), found.tolist(), strict=True):
        assert row == sorted(ids.tolist(), key=lambda each: each ^ target)[:20]


def test_too_few_ids_are_refused(rng):
    with pytest.raises(ValueError, match="fewer ids"):
        closest(random_ids(rng, 3), np.array([1], np.uint64), 4)


def test_common_prefix_counts_leading_bits(rng):
    one, other = rng.integers(0, 2**64, (2, 500), dtype=np.uint64)
    other[:64] = one[:64] ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    other[64] = one[64]
    expected = [
        64 - (a ^ b).bit_length() for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert common_prefix(one, other).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 5, 63, 64])
def test_a_subtree_is_the_range_that_shares_the_prefix(rng, depth):
    ids = random_ids(rng, 300)
    low, high = subtree(ids, ids, np.full(len(ids), depth))
    for member, start, end in zip(ids.tolist(), low, high, strict=True):
        shares = [each >> (64 - depth) == member >> (64 - depth) for each in ids.tolist()]
        assert shares == [start <= place < end for place in range(len(ids))]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "populations"), [(1000, 20), (10_000, 2)])
def test_buckets_fill_as_the_binomial_law_says(rng, count, populations):
    k, depths = 20, range(3, 13)
    fill = np.zeros(len(depths))
    for _ in range(populations):
        live = random_ids(rng, count)
        tables = Tables(Known.of(live, NOBODY), k, rng)
        fill += [(tables.bucket(live, depth).ids != ABSENT).sum() / count for depth in depths]
    fill /= populations
    for depth, measured in zip(depths, fill, strict=True):
        assert measured == pytest.approx(
            mean_of_bounded_binomial(count, depth, k), rel=0.05, abs=0.05
        )


def mean_of_bounded_binomial(count, depth, k):
    """E[min(Bin(N - 1, 2^-(depth + 1)), k)]; nothing counts beyond 3,000 at these sizes."""
    share = 2.0 ** -(depth + 1)
    return sum(
        min(n, k) * math.exp(log_binomial(count - 1, n, share)) for n in range(min(count, 3000))
    )


def log_binomial(trials, successes, share):
    return (
        math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
        + successes * math.log(share) + (trials - successes) * math.log1p(-share)
    )  # fmt: skip


class Calls:
    """Answers in 50 to 150 ms, whoever is called."""

    def __init__(self, rng, silence_s):
        self.rng, self.silence_s = rng, silence_s

    def answered(self, first_hand):
        return self.rng.uniform(0.05, 0.15, len(first_hand))

    def silence(self, first_hand):
        return np.full(len(first_hand), self.silence_s)


def look_up_many(rng, live, gone, settings, count, silence_s=1.5, targets=None):
    if targets is None:
        targets = rng.integers(0, 2**64, count, dtype=np.uint64)
    tables = Tables(Known.of(live, gone), settings.k, rng)
    return targets, look_up(
        tables, rng.choice(live, count), targets, settings,
        Calls(rng, silence_s),
    )  # fmt: skip


@pytest.mark.parametrize("count", [256, 1024, 16384])
def test_with_one_contact_a_bucket_a_lookup_takes_half_the_bits_in_hops(rng, count):
    live = random_ids(rng, count)
    settings = DhtSettings(k=1, alpha=1, disjoint_paths=1)
    _, found = look_up_many(rng, live, NOBODY, settings, 3000, targets=rng.choice(live, 3000))
    assert found.hops.mean() == pytest.approx(math.log2(count) / 2, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k", "count", "hops"), [(8, 1024, 2.40), (20, 1024, 1.94), (20, 16384, 2.63)]
)
def test_with_k_contacts_hops_are_those_of_an_independent_monte_carlo(rng, k, count, hops):
    settings = DhtSettings(k=k, alpha=1, disjoint_paths=1)
    _, found = look_up_many(rng, random_ids(rng, count), NOBODY, settings, 1000)
    assert found.hops.mean() == pytest.approx(hops, rel=0.05)


@pytest.mark.slow
def test_a_lookup_finds_the_closest_and_no_departed_node(rng):
    live, gone = random_ids(rng, 800), random_ids(rng, 200)
    settings = DhtSettings()
    targets, found = look_up_many(rng, live, gone, settings, 300)
    assert not np.isin(found.closest, gone).any()
    assert np.isin(found.closest[found.closest != ABSENT], live).all()
    share = (found.closest[:, :, None] == closest(live, targets, 20)[:, None, :]).any(axis=1).mean()
    assert share > 0.93
    assert (found.silent > 0).mean() > 0.8
    assert np.all(found.queries <= settings.lookup_max_queries)


@pytest.mark.slow
def test_each_node_is_asked_once_and_silence_costs_its_timeout(rng):
    live, gone = random_ids(rng, 400), random_ids(rng, 100)
    _, quick = look_up_many(rng, live, gone, DhtSettings(), 300, silence_s=0.3)
    _, slow = look_up_many(rng, live, gone, DhtSettings(), 300, silence_s=3.0)
    assert np.median(slow.latency_s) > np.median(quick.latency_s) + 2.0
    assert np.all(quick.queries - quick.silent <= 400)
    assert slow.latency_s.max() <= DhtSettings().lookup_time_s
