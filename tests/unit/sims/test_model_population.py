"""The model's renewal process against what renewal theory says."""

from dataclasses import dataclass

import numpy as np
import pytest

from sims.model.population import Population


@dataclass(frozen=True)
class Exponential:
    """Memoryless: a whole period and the rest of one look alike."""

    mean_s: float

    def sample_array(self, rng, count):
        return rng.exponential(self.mean_s, count)

    residual_array = sample_array


@pytest.fixture
def population():
    rng = np.random.default_rng(3)
    return Population(50_000, Exponential(600.0), Exponential(1800.0), 0.25, rng)


def test_as_many_are_online_at_every_hour(population):
    for hour in range(6):
        population.advance(hour * 3600.0)
        assert len(population.live()) / 50_000 == pytest.approx(0.25, abs=0.01)


def test_nodes_leave_at_the_rate_that_their_sessions_say(population):
    population.advance(3600.0)
    assert population.leaves == pytest.approx(50_000 * 0.25 * 3600 / 600, rel=0.02)
    assert population.joins == pytest.approx(population.leaves, rel=0.02)


def test_those_who_left_are_remembered_for_a_while(population):
    population.advance(1200.0)
    remembered = population.remembered(1200.0, 60.0)
    assert not np.isin(remembered, population.live()).any()
    # 50,000 x 0.25 / 600 s leave in a second, and each lingers for 60 s in the mean.
    assert len(remembered) == pytest.approx(50_000 * 0.25 / 600 * 60, rel=0.1)
    assert len(population.remembered(1200.0, 0.0)) == 0
