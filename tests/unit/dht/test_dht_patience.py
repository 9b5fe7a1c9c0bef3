"""Patience with an endpoint: RFC 6298 between two bounds."""

from random import Random

import pytest
from dht_network import public_endpoint

from overlay.dht.round_trips import MAX_MEASURED, RoundTrips
from overlay.dht.settings import DhtSettings

AT = public_endpoint(1)


def reference(samples):
    """RFC 6298, sections 2.2 and 2.3, written once more by its text."""
    srtt = rttvar = None
    for r in samples:
        if srtt is None:
            srtt, rttvar = r, r / 2
        else:
            rttvar = (1 - 1 / 4) * rttvar + 1 / 4 * abs(srtt - r)
            srtt = (1 - 1 / 8) * srtt + 1 / 8 * r
    return srtt + 4 * rttvar


@pytest.mark.parametrize("seed", range(5))
def test_patience_is_what_the_rfc_computes_within_the_bounds(seed):
    rng = Random(seed)
    trips = RoundTrips(DhtSettings())
    samples = []
    for _ in range(50):
        samples.append(rng.uniform(0.01, 0.6))
        trips.measured(AT, samples[-1])
        assert trips.patience(AT, 0) == pytest.approx(min(2.0, max(0.2, reference(samples))))


def test_unknown_endpoint_gets_the_initial_patience_doubled_up_to_the_bound():
    trips = RoundTrips(DhtSettings())
    assert [trips.patience(AT, attempt) for attempt in range(4)] == [0.5, 1.0, 2.0, 2.0]


def test_slow_peer_cannot_buy_more_than_the_bound():
    trips = RoundTrips(DhtSettings())
    trips.measured(AT, 1e6)
    assert trips.patience(AT, 0) == trips.patience(AT, 4) == 2.0


def test_measurement_that_runs_backwards_is_ignored():
    trips = RoundTrips(DhtSettings())
    trips.measured(AT, -1.0)
    assert trips.patience(AT, 0) == 0.5


def test_a_bounded_number_of_endpoints_is_remembered():
    trips = RoundTrips(DhtSettings())
    for number in range(MAX_MEASURED + 1):
        trips.measured(public_endpoint(number), 0.001)
    assert trips.patience(public_endpoint(0), 0) == 0.5
    assert trips.patience(public_endpoint(1), 0) == 0.2
    assert len(trips) == MAX_MEASURED
