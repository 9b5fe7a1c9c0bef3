"""The model's renewal process against what renewal theory says."""

import numpy as np
import pytest

from sims.vectorised.population import VectorisedPopulation, is_hostile
from sims.world.churn.lifetimes import Exponential
from sims.world.churn.session_models import PRESETS, SessionModel

COUNT = 50_000


def population(off_s=1800.0, **options):
    off = Exponential(off_s) if off_s else None
    sessions = SessionModel("test", Exponential(600.0), off)
    return VectorisedPopulation(COUNT, sessions, np.random.default_rng(3), **options)


def test_as_many_are_online_at_every_hour():
    made = VectorisedPopulation(COUNT, PRESETS["kad2007"], np.random.default_rng(5))
    for hour in range(6):
        made.advance(hour * 3600.0)
        assert len(made.live()) / COUNT == pytest.approx(
            PRESETS["kad2007"].availability(), abs=0.01
        )


def test_those_met_online_stay_as_long_as_renewal_theory_says():
    sessions = PRESETS["kad2007"]
    made = VectorisedPopulation(COUNT, sessions, np.random.default_rng(5))
    at_first = np.flatnonzero(made.online)
    made.advance(7200.0)
    stayed = made.online[at_first] & np.isneginf(made.online_since[at_first])
    assert stayed.mean() == pytest.approx(sessions.residual_survival(7200.0), abs=0.02)


def test_nodes_leave_at_the_rate_that_their_sessions_say():
    made = population()
    made.advance(3600.0)
    assert made.leaves == pytest.approx(COUNT * 0.25 * 3600 / 600, rel=0.02)
    assert made.joins == pytest.approx(made.leaves, rel=0.02)


def test_a_node_that_never_returns_is_replaced_under_another_id():
    made = population(off_s=None)
    before = made.ids.copy()
    made.advance(600.0)
    changed = made.ids != before
    assert changed.mean() == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert len(made.live()) == COUNT


def test_sessions_are_remembered_for_a_while_after_their_end():
    made = population(memory_s=60.0)
    made.advance(1200.0)
    sessions = made.sessions()
    over = np.isfinite(sessions.until)
    assert np.array_equal(np.sort(sessions.ids[~over]), made.live())
    assert np.all(np.diff(sessions.ids.astype(np.float64)) >= 0)
    assert np.all(sessions.since[over] < sessions.until[over])
    # 50,000 x 0.25 / 600 s leave in a second.
    recent = sessions.until[over] > 1140.0
    assert recent.sum() == pytest.approx(COUNT * 0.25 / 600 * 60, rel=0.1)


def test_guests_are_remembered_like_all_others_and_no_guests_change_nothing():
    made = population(memory_s=60.0)
    made.visited(np.array([], np.uint64), 0.0, 10.0)
    made.visited(np.array([7], np.uint64), 0.0, 10.0)
    made.advance(30.0)
    assert 7 in made.sessions().ids
    made.advance(100.0)
    assert 7 not in made.sessions().ids


def test_nodes_that_never_leave_are_always_on_line():
    made = population(always=7)
    made.advance(36_000.0)
    assert made.online[:7].all()


def test_an_adversary_has_its_share_and_always_the_same_nodes():
    ids = population().ids
    assert is_hostile(ids, 0.2).mean() == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(is_hostile(ids, 0.2), is_hostile(ids, 0.2))
    assert not is_hostile(ids, 0.0).any()


def test_a_mass_failure_is_for_good():
    made = population()
    online = len(made.live())
    made.fail(0.5, 0.0)
    assert len(made.live()) == pytest.approx(online / 2, abs=1)
    made.advance(36_000.0)
    assert len(made.live()) < 0.25 * COUNT * 0.9
