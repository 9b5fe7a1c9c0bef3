"""Settings of the DHT that contradict each other are refused with a sentence."""

import pytest

from overlay.dht.settings import DhtSettings


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
