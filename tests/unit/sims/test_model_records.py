"""Who holds a record, and what clients know, on overlays small enough to count by hand."""

import numpy as np
import pytest

from overlay.dht.settings import DhtSettings
from sims.vectorised.population import Sessions, VectorisedPopulation
from sims.vectorised.records import holders_of
from sims.vectorised.topology import TopologyTables
from sims.world.churn.lifetimes import Exponential
from sims.world.churn.session_models import SessionModel

KEY = np.array([0], np.uint64)
NEVER = np.array([np.inf])


def sessions(*stays):
    """Return stays as (id, since, until) in the order of their ids, which are the distances."""
    ids, since, until = zip(*sorted(stays), strict=True)
    return Sessions(np.array(ids, np.uint64), np.array(since, float), np.array(until, float))


def stored(stays, *times, k=2, **options):
    held = holders_of(stays, KEY, np.array([times], float), k, 10, NEVER, **options)
    return sorted(held.ids[held.there].tolist())


def test_the_nearest_hold_a_record_while_their_session_lasts():
    stays = sessions((1, 0, np.inf), (2, 0, 50), (3, 0, np.inf))
    assert stored(stays, 10.0) == [1]


def test_a_later_node_holds_nothing_until_it_is_stored_again():
    stays = sessions((1, 20, np.inf), (2, 0, np.inf), (3, 0, np.inf))
    assert stored(stays, 10.0) == [2, 3]
    assert stored(stays, 10.0, 30.0) == [1, 2, 3]


def test_a_time_that_never_came_stores_nothing():
    assert stored(sessions((1, 0, np.inf), (2, 0, np.inf)), np.nan) == []


def test_no_record_is_stored_at_nodes_that_no_lookup_finds_or_at_its_owner():
    stays = sessions((1, 0, np.inf), (2, 0, np.inf), (3, 0, np.inf))
    assert stored(stays, 10.0, unheard=np.array([True, False, False])) == [2, 3]
    owner = sessions((0, 0, np.inf), (1, 0, np.inf), (2, 0, np.inf))
    assert stored(owner, 10.0) == [1, 2]


def test_all_in_the_region_hold_a_record_once_the_publisher_knows_how_far_it_reaches():
    stays = sessions(*((number, 0, np.inf) for number in range(1, 6)))
    times = np.array([[10.0]])
    for known_at, count in ((5.0, 5), (15.0, 2)):
        held = holders_of(stays, KEY, times, 2, 10, np.array([known_at]))
        assert held.there.sum() == count


def test_holders_are_told_among_candidates():
    held = holders_of(sessions((1, 0, np.inf), (2, 0, 5)), KEY, np.array([[1.0]]), 2, 10, NEVER)
    assert held.among(np.array([[2, 1, 7]], np.uint64)).tolist() == [[False, True, False]]


def crawled(count=400, now=900.0, settings=None, hostile_share=0.0):
    model = SessionModel("test", Exponential(600.0), Exponential(600.0))
    rng = np.random.default_rng(2)
    population = VectorisedPopulation(count, model, rng, memory_s=3600.0)
    tables = TopologyTables(2, settings or DhtSettings(), rng)
    while (due := tables.next_crawl()) <= now:
        population.advance(due)
        tables.crawl(population, due, 1200.0, hostile_share)
    population.advance(now)
    return population, tables


def test_clients_know_the_nodes_on_line_and_keep_departed_ones():
    population, tables = crawled()
    table, live = tables.table(0, 900.0), population.live()
    assert np.isin(live, table).mean() > 0.7
    assert 0.1 < 1 - np.isin(table, live).mean() < 0.8
    assert np.array_equal(table, np.unique(table))


def test_paths_are_drawn_from_nodes_that_answered_the_last_crawl():
    population, tables = crawled()
    eligible = tables.eligible(0, 900.0)
    table = tables.table(0, 900.0)
    assert np.isin(eligible, table).all()
    alive = np.isin(eligible, population.live()).mean()
    assert alive > np.isin(table, population.live()).mean()


def test_descriptors_expire():
    _, tables = crawled()
    assert len(tables.table(0, 900.0 + 4 * 3600.0)) == 0


def test_an_adversary_that_gives_no_descriptor_is_known_but_not_chosen():
    _, tables = crawled(hostile_share=0.5)
    assert len(tables.eligible(0, 900.0)) < 0.7 * len(tables.table(0, 900.0))


def test_a_crawl_that_reaches_its_limit_finds_a_part_and_marks_no_node_silent():
    _, tables = crawled(settings=DhtSettings(crawl_max_nodes=50))
    table = tables.table(0, 900.0)
    assert len(table) == pytest.approx(100, abs=30)
    assert np.array_equal(tables.eligible(0, 900.0), table)
