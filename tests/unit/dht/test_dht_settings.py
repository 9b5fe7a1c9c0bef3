"""Settings refuse what cannot work, with a sentence."""

import dataclasses

import pytest

from overlay.dht.settings import _RANGES, DhtSettings


def test_every_number_has_a_range_and_every_range_a_setting():
    numbers = {
        field.name
        for field in dataclasses.fields(DhtSettings)
        if not isinstance(field.default, bool)
    }
    assert numbers == {name for name, _, _ in _RANGES}


@pytest.mark.parametrize(("name", "low", "high"), _RANGES)
def test_values_out_of_range_are_named(name, low, high):
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"^{name} must lie between .*\.$"):
            DhtSettings(**{name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"crawl_first_interval_s": 700.0},
        {"bootstrap_retry_s": 61.0},
        {"alpha": 2, "disjoint_paths": 3},
        {"rpc_timeout_s": 3.0},
        {"rpc_timeout_s": 0.1},
    ],
)
def test_settings_that_contradict_each_other_are_refused(values):
    with pytest.raises(ValueError, match="must not exceed"):
        DhtSettings(**values)
