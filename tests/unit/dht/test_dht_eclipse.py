"""The eclipse alarm against KADEMLIA's figures, by a Monte Carlo that shares none of its code."""

import math
from random import Random
from statistics import mean, pstdev

import pytest
from dht_network import START, Network, public_endpoint

from overlay.addresses import NodeId
from overlay.dht.eclipse import (
    MAX_SAMPLES,
    MAX_SUSPICIONS,
    MIN_SAMPLES,
    SIGNIFICANCE,
    EclipseWatch,
    chance_of_density,
    chi_squared_cdf,
    estimated_size,
    kth_nearest_distance,
)
from overlay.dht.events import EclipseSuspected
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings

K = 20
SPACE = 2**160
NOW = START


# -- the distribution ----------------------------------------------------------------------


def test_cdf_agrees_with_published_quantiles():
    # NIST/SEMATECH e-Handbook, 1.3.6.7.4: upper critical values of the chi-squared distribution.
    table = [
        (2, 5.991, 0.95),
        (10, 18.307, 0.95),
        (20, 31.410, 0.95),
        (40, 55.758, 0.95),
        (40, 63.691, 0.99),
        (40, 22.164, 0.01),
        (40, 26.509, 0.05),
        (10, 2.558, 0.01),
    ]
    for degrees, x, probability in table:
        assert chi_squared_cdf(x, degrees) == pytest.approx(probability, abs=2e-5)


@pytest.mark.slow
def test_cdf_agrees_with_sums_of_squares_of_normal_variables():
    rng = Random(1)
    draws = [sum(rng.gauss(0, 1) ** 2 for _ in range(10)) for _ in range(20_000)]
    for x in (4.0, 9.0, 15.0):
        share = sum(draw <= x for draw in draws) / len(draws)
        assert chi_squared_cdf(x, 10) == pytest.approx(share, abs=0.012)


def test_cdf_keeps_its_precision_in_both_tails_and_its_bounds():
    assert chi_squared_cdf(0, 40) == chi_squared_cdf(-1, 40) == 0.0
    assert chi_squared_cdf(0.2, 40) == pytest.approx(0.1**20 / math.factorial(20), rel=0.2)
    assert chi_squared_cdf(1e4, 40) == pytest.approx(1.0)
    values = [chi_squared_cdf(x / 10, 40) for x in range(1, 1500)]
    assert values == sorted(values)
    for degrees in (0, 3, -2):
        with pytest.raises(ValueError, match="even"):
            chi_squared_cdf(1.0, degrees)


# -- KADEMLIA, section 2.6 -----------------------------------------------------------------


def kth_of_uniform(rng, nodes, k, sybils=0):
    """Draw the k-th nearest of uniform nodes; Sybils lie closer than the closest honest one."""
    honest = sorted(rng.random() for _ in range(nodes))
    closer = sorted(rng.random() * honest[0] for _ in range(sybils))
    return [*closer, *honest][k - 1]


@pytest.mark.slow
@pytest.mark.parametrize(("k", "expected"), [(20, 0.236), (8, 0.408)])
def test_size_estimate_has_the_stated_scatter(k, expected):
    rng = Random(2)
    estimates = [estimated_size(kth_of_uniform(rng, 500, k), k) for _ in range(3000)]
    assert mean(estimates) == pytest.approx(500, rel=0.03)
    assert pstdev(estimates) / 500 == pytest.approx(expected, rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sybils", "power", "tolerance"),
    [(0, 0.009, 0.006), (20, 1.0, 0.0), (10, 0.65, 0.04), (5, 0.13, 0.03)],
)
def test_power_and_false_alarms_are_those_of_the_theory(sybils, power, tolerance):
    rng = Random(3)
    alarms = [
        chance_of_density(1000, kth_of_uniform(rng, 1000, K, sybils), K) < SIGNIFICANCE
        for _ in range(1500)
    ]
    assert mean(alarms) == pytest.approx(power, abs=tolerance)


# -- the k-th nearest of a crawl -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_kth_nearest_is_that_of_a_plain_sort(seed):
    rng = Random(seed)
    dense = [(1 << 159) + rng.getrandbits(20) for _ in range(50)]
    ids = sorted({*(rng.getrandbits(160) for _ in range(rng.choice([20, 300]))), *dense})
    for target in [rng.getrandbits(160) for _ in range(30)] + [dense[0], 0, SPACE - 1]:
        for k in (1, 8, 20):
            assert kth_nearest_distance(ids, target, k) == sorted(n ^ target for n in ids)[k - 1]


# -- the watch -----------------------------------------------------------------------------


def node_id(number):
    return NodeId(number.to_bytes(20, "big"))


class Overlay:
    """Ids without nodes: what a lookup that finds everybody would find."""

    def __init__(self, seed, size=1000):
        self.rng = Random(seed)
        self.ids = [self.rng.getrandbits(160) for _ in range(size)]

    def nearest(self, target, count=K):
        chosen = sorted(self.ids, key=lambda number: number ^ target)[:count]
        return [Contact(node_id(n), public_endpoint(1), bytes(32)) for n in chosen]

    def look_up(self, watch, target=None, now=NOW):
        target = self.rng.getrandbits(160) if target is None else target
        return watch.looked_up(node_id(target), self.nearest(target), now)

    def surround(self, target, count=K):
        reach = min(number ^ target for number in self.ids)
        self.ids += [target ^ self.rng.randrange(1, reach) for _ in range(count)]


def warmed(overlay, lookups=40):
    watch = EclipseWatch(K)
    for _ in range(lookups):
        overlay.look_up(watch)
    return watch


def test_size_comes_from_other_lookups_only():
    overlay = Overlay(1)
    watch = warmed(overlay, 60)
    assert watch.size(NOW) == pytest.approx(1000, rel=0.12)
    assert EclipseWatch(K).size(NOW) is None
    target = overlay.rng.getrandbits(160)
    overlay.look_up(watch, target)
    before = watch.size(NOW, apart_from=node_id(target))
    overlay.surround(target)
    overlay.look_up(watch, target)
    assert watch.size(NOW, apart_from=node_id(target)) == before


def test_a_third_of_eclipsed_samples_does_not_move_the_size_far():
    overlay = Overlay(2)
    watch = warmed(overlay, 40)
    for number in range(20):
        overlay.surround(target := number << 150 | 1)
        overlay.look_up(watch, target)
    # Twenty estimates of many millions would have lifted a mean a thousandfold.
    assert 700 < watch.size(NOW) < 2000


def test_sybils_around_a_target_raise_one_suspicion_of_its_region():
    overlay = Overlay(3)
    watch = warmed(overlay)
    target = overlay.rng.getrandbits(160)
    overlay.surround(target)
    chance = overlay.look_up(watch, target)
    assert chance is not None
    assert chance < 1e-6
    assert overlay.look_up(watch, target) is None, "told once"
    assert watch.suspected_regions(NOW) == 1
    assert watch.suspects(node_id(target), NOW)
    assert watch.suspects(node_id(target ^ (1 << 150)), NOW), "of its region"
    assert not watch.suspects(node_id(target ^ (1 << 159)), NOW)


def test_suspicion_ends_when_a_lookup_finds_the_region_regular_or_after_two_hours():
    overlay = Overlay(4)
    watch = warmed(overlay)
    honest = overlay.ids.copy()
    target = overlay.rng.getrandbits(160)
    overlay.surround(target)
    assert overlay.look_up(watch, target) is not None
    overlay.ids = honest
    assert overlay.look_up(watch, target) is None
    assert watch.suspected_regions(NOW) == 0
    overlay.surround(target)
    assert overlay.look_up(watch, target) is not None
    assert watch.suspected_regions(NOW + 7199) == 1
    assert watch.suspected_regions(NOW + 7200) == 0


def test_regular_overlay_is_suspected_about_once_in_a_hundred_targets():
    alarms = lookups = 0
    for seed in range(6):
        overlay = Overlay(100 + seed, 400)
        watch = EclipseWatch(K)
        watch.crawled(map(node_id, overlay.ids), overlay.rng, NOW)
        for _ in range(150):
            alarms += overlay.look_up(watch) is not None
            lookups += 1
    assert alarms / lookups < 0.03  # 0.01 and what the estimate's own scatter adds


def test_no_verdict_from_few_samples_few_nodes_or_a_small_k():
    overlay = Overlay(5)
    watch = warmed(overlay, 10)
    target = overlay.rng.getrandbits(160)
    overlay.surround(target)
    assert overlay.look_up(watch, target) is None
    assert watch.region(NOW) == 0
    small = EclipseWatch(K)
    assert small.looked_up(node_id(1), overlay.nearest(1, K - 1), NOW) is None
    tiny = EclipseWatch(3)
    for _ in range(60):
        assert overlay.look_up(tiny) is None
    assert tiny.size(NOW) is None


def test_samples_and_suspicions_are_bounded_and_age():
    overlay = Overlay(6)
    watch = warmed(overlay, 200)
    assert MIN_SAMPLES < watch.samples(NOW) <= MAX_SAMPLES
    assert watch.size(NOW + 7200) is None
    assert watch.samples(NOW + 7200) == 0
    for number in range(MAX_SUSPICIONS + 20):
        # A crawl of the honest nodes, because many eclipsed samples would change the estimate.
        watch.crawled(map(node_id, overlay.ids), overlay.rng, NOW)
        target = number << 150
        near = [Contact(node_id(target + n), public_endpoint(1), bytes(32)) for n in range(K)]
        watch.looked_up(node_id(target), near, NOW)
        assert watch.suspected_regions(NOW) >= min(number + 1, MAX_SUSPICIONS)
    assert watch.suspected_regions(NOW) == MAX_SUSPICIONS
    assert watch.suspected_regions(NOW + 7200) == 0


def test_crawl_gives_enough_samples_by_itself():
    overlay = Overlay(7)
    watch = EclipseWatch(K)
    watch.crawled(map(node_id, overlay.ids), Random(1), NOW)
    assert watch.size(NOW) == pytest.approx(1000, rel=0.2)
    few = EclipseWatch(K)
    few.crawled([node_id(n) for n in range(K - 1)], Random(1), NOW)
    assert few.size(NOW) is None


# -- the node's reaction -------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    settings = DhtSettings(
        k=5, alpha=4, disjoint_paths=2, crawl_first_interval_s=600.0, crawl_interval_s=600.0
    )
    network = Network(settings=settings)
    members = [network.add(number) for number in range(24)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
        network.run(0.05)
    network.run(5)
    return network, members


def store_targets(network, member):
    """Run one publication and return who holds the descriptor."""
    network.do(member, lambda dht: dht.parts.upkeep.publish(network.now))
    network.run(5)
    return set(member.dht.parts.publisher.holders)


@pytest.mark.slow
def test_suspected_own_region_is_told_counted_and_answered_by_storing_in_the_region(world):
    network, members = world
    member = members[7]
    network.do(member, lambda dht: dht.crawl(network.now))
    network.run(5)
    assert DhtInspection(member.dht).estimated_size(network.now) == pytest.approx(23, rel=0.4)
    calm = store_targets(network, member)
    by_distance = sorted(
        (m.node_id for m in members if m is not member),
        key=lambda i: int.from_bytes(i) ^ int.from_bytes(member.node_id),
    )
    assert set(by_distance[:5]) <= calm
    # As if the five nearest lay where chance does not put them.
    watch = member.dht.parts.watch
    tight = [
        Contact(node_id(int.from_bytes(member.node_id) ^ n), public_endpoint(n), bytes(32))
        for n in range(1, 6)
    ]
    assert watch.looked_up(member.node_id, tight, network.now) is not None
    assert member.dht.suspect_regions(network.now) == 1
    watch.looked_up = lambda *_: None  # the overlay itself is honest here
    wide = store_targets(network, member)
    assert len(wide) > len(calm)
    assert set(by_distance[:5]) <= wide
    assert len(wide) <= 20


@pytest.mark.slow
def test_event_names_the_chance_and_no_address(world):
    network, members = world
    member = members[3]
    member.dht.parts.watch.looked_up = lambda *_: 1e-9
    network.do(member, lambda dht: dht.parts.upkeep.publish(network.now))
    network.run(3)
    (event, *_) = member.of(EclipseSuspected)
    assert event.chance == 1e-9
    assert member.dht.activity.eclipses_suspected >= 1
    assert set(event.__slots__) == {"chance", "own_region"}
