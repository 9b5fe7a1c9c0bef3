"""How long the dead stand in the model's tables, when nodes publish, and how long calls take."""

from dataclasses import replace

import numpy as np
import pytest

from overlay.dht.descriptor import RESIGN_INTERVAL_S
from overlay.dht.settings import DhtSettings
from sims.scenario.sections import LatencySection
from sims.vectorised.attention import Attention
from sims.vectorised.fetching import fetch
from sims.vectorised.habits import BucketTraffic, Habits, crawl_pause_s
from sims.vectorised.schedule import Publications, cookies_at_hand, signed_at
from sims.vectorised.tables import Known, Tables
from sims.vectorised.timing import CallTiming

SETTINGS = DhtSettings()
HABITS = Habits(
    online=2000, leaving_per_s=1 / 14_400, lookups_per_s=6 / 3600, queries=28.0, answered=0.9,
    first_hand=0.35,
)  # fmt: skip
NOW = 20_000.0
BEFORE = np.full(50, -np.inf)
NOBODY = np.array([])
LATENCY = LatencySection("constant", 0.05)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def attention(habits=HABITS, settings=SETTINGS, walks=None, since=BEFORE):
    if walks is None:
        walks = np.full((len(since), 1), np.nan)
    return Attention(settings, habits, NOW, since, walks, NOBODY)


def at(depth, ages):
    return np.full(len(ages), depth), np.array(ages, float)


def test_crawls_of_many_nodes_come_more_rarely():
    pauses = [crawl_pause_s(SETTINGS, nodes) for nodes in (100, 4000, 10_000, 1_000_000)]
    assert pauses == [600.0, 600.0, 1500.0, 3000.0]


def test_nodes_on_line_stay_in_tables_and_long_departed_ones_do_not():
    for depth in (0, 3, 6, 12):
        standing = attention().standing(*at(depth, [0.0, 86_400.0]), in_answers=False)
        assert standing[0] == 1.0
        assert standing[1] < 0.01


def test_far_contacts_are_missed_later_the_smaller_their_bucket():
    depths = range(6)
    noticed = [BucketTraffic.into(SETTINGS, HABITS, depth).notice_s(SETTINGS) for depth in depths]
    assert noticed == sorted(noticed)
    assert 60 < noticed[0] < 600


def test_more_traffic_finds_the_dead_sooner():
    busy = replace(HABITS, lookups_per_s=60 / 3600)
    for depth in range(5):
        quiet = BucketTraffic.into(SETTINGS, HABITS, depth).notice_s(SETTINGS)
        assert BucketTraffic.into(SETTINGS, busy, depth).notice_s(SETTINGS) < quiet


def test_a_neighbour_leaves_answers_after_the_first_lookup_and_the_table_after_the_second():
    walks = np.tile([NOW - 900.0, NOW - 300.0], (50, 1))
    seen = attention(replace(HABITS, lookups_per_s=0.0), walks=walks)
    ages = [200.0, 600.0, 1200.0]
    named = seen.standing(*at(12, ages), in_answers=True)
    kept = seen.standing(*at(12, ages), in_answers=False)
    assert named[0] > 0.9
    assert np.all(named[1:] < 1e-9)
    assert np.all(kept[:2] > 0.8)
    assert kept[2] < 1e-9


def test_a_holder_that_came_later_never_had_the_contact():
    newcomers = np.full(50, NOW - 60.0)
    standing = attention(since=newcomers).standing(*at(12, [3.0, 600.0]), in_answers=False)
    assert standing[0] > 0.9
    assert standing[1] < 1e-9


def test_new_nodes_are_rare_in_far_buckets_and_frequent_in_near_ones():
    since = np.array([-np.inf, NOW - 1800.0])
    far = attention().presence(np.zeros(2, np.int64), since)
    near = attention().presence(np.full(2, 10), since)
    assert far[0] > 0.019
    assert far[1] < 0.1 * far[0]
    assert np.all(near == 1.0)


def test_without_departures_nothing_is_divided_by_zero():
    calm = attention(replace(HABITS, leaving_per_s=0.0))
    presence = calm.presence(np.arange(12), np.full(12, NOW - 600.0))
    assert np.isfinite(presence).all()
    assert np.all(calm.mute_standing(np.arange(12), np.ones(12), in_answers=True) <= 1.0)


def test_a_node_that_answers_no_lookup_is_in_few_far_buckets_and_named_by_half_of_its_neighbours():
    mute = attention().mute_standing(np.array([0, 12]), np.ones(2), in_answers=True)
    kept = attention().mute_standing(np.array([0, 12]), np.ones(2), in_answers=False)
    assert mute[0] < 0.1
    assert mute[1] == pytest.approx(0.5)
    assert kept[1] == pytest.approx(0.75)


def test_tables_hold_as_many_of_the_dead_as_their_standing_says(rng):
    ids = np.sort(rng.integers(1, 2**64, 4000, dtype=np.uint64))
    gone_s = np.where(np.arange(4000) % 4 == 0, 120.0, 0.0)
    known = Known(ids, np.full(4000, -np.inf), gone_s, np.zeros(4000), np.zeros(4000))
    staying = attention()
    tables = Tables(known, SETTINGS.k, rng, staying)
    live = ids[gone_s == 0]
    replies = tables.bucket(live, 0)
    standing = staying.standing(*at(0, [120.0]), in_answers=False)[0]
    expected = standing / (3 + standing)
    assert 1 - replies.alive.mean() == pytest.approx(expected, abs=0.01)


def test_a_new_node_doubles_its_pauses_and_stores_new_signatures(rng):
    since = np.full(400, 1000.0)
    now = 1000.0 + RESIGN_INTERVAL_S + 1000.0
    times = Publications(SETTINGS, rng).of(since, now)
    assert np.nanmax(times) < now
    offsets = times - 1000.0
    pauses = np.diff(offsets[:, :5], axis=1).mean(axis=0)
    assert pauses == pytest.approx([60, 120, 240, 480], rel=0.05)
    assert np.isclose(offsets, RESIGN_INTERVAL_S).any(axis=1).all()
    assert (offsets < RESIGN_INTERVAL_S).sum(axis=1).tolist() == pytest.approx([6.5] * 400, abs=1)


def test_a_node_that_is_on_line_for_long_stores_once_or_twice_an_hour(rng):
    times = Publications(SETTINGS, rng).of(np.full(400, 1000.0), 1000.0 + 10.5 * RESIGN_INTERVAL_S)
    an_hour = (times > 1000.0 + 9.5 * RESIGN_INTERVAL_S).sum(axis=1)
    assert set(an_hour.tolist()) <= {1, 2}
    assert an_hour.mean() == pytest.approx(1.5, abs=0.1)


def test_a_node_from_before_the_run_publishes_first_at_a_random_moment(rng):
    times = Publications(SETTINGS, rng).of(np.full(500, -np.inf), 1800.0)
    published = np.isfinite(times).any(axis=1)
    assert published.mean() == pytest.approx(0.5, abs=0.08)


def test_cookies_of_neighbours_count_for_five_minutes():
    walks = np.array([[0.0, 60.0, 180.0, 420.0, np.nan], [0.0, 3600.0, 3700.0, np.nan, np.nan]])
    assert cookies_at_hand(walks, -1.0) == pytest.approx(3 / 7)
    assert cookies_at_hand(walks, 3650.0) == 1.0
    assert cookies_at_hand(walks, 5000.0) == 0.0


def test_descriptors_are_signed_each_hour_of_a_session():
    since, until = np.array([100.0, -np.inf, 100.0]), np.array([3600.0, 7300.0, 3800.0])
    assert signed_at(since, until).tolist() == [100.0, 7200.0, 3700.0]


def test_a_call_to_an_unknown_node_takes_two_round_trips_and_to_a_known_one_one(rng):
    timing = CallTiming(LATENCY, SETTINGS, (1e9, 0.0), 60.0, (1.0, 1.0), rng)
    assert timing.answered(np.array([True, False])) == pytest.approx([0.1, 0.2])
    assert timing.silence(np.array([True, False])) == pytest.approx([0.3, 0.5])


def test_a_round_trip_is_forgotten_after_a_call_in_vain(rng):
    timing = CallTiming(LATENCY, SETTINGS, (1e9, 1e9), 60.0, (0.0, 1.0), rng)
    assert timing.silence(np.array([True, False])) == pytest.approx([0.5, 0.3])


def test_the_probability_of_a_call_grows_with_the_time_since_departure():
    walks = np.tile([NOW - 900.0, NOW - 300.0], (50, 1))
    seen = attention(walks=walks)
    shares = [seen.not_called_since(np.full(20, age)) for age in (10.0, 600.0, 3000.0)]
    own, others = zip(*shares, strict=True)
    assert own[0] > 0.95
    assert others[0] > 0.95
    assert list(own) == sorted(own, reverse=True)
    assert list(others) == sorted(others, reverse=True)
    assert others[2] < 0.9
    assert seen.not_called_since(NOBODY) == (1.0, 1.0)


def test_a_record_is_fetched_from_three_at_a_time_until_three_had_it(rng):
    timing = CallTiming(LATENCY, SETTINGS, (0.0, 0.0), 0.0, (1.0, 1.0), rng)
    asked = np.ones((3, 5), np.bool_)
    has_it = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], np.bool_)
    found, took_s = fetch(asked, has_it, timing)
    assert found.tolist() == [True, True, False]
    assert took_s == pytest.approx([0.1, 0.2, 0.2])
