from random import Random

import pytest

from overlay.errors import ConfigurationError
from sims.world.latency import (
    Constant,
    Geographic,
    Uniform,
    build_latency,
    read_matrix,
    shipped_matrix,
)
from sims.world.latency.cities import great_circle_km
from sims.world.latency.geographic import region_of


def test_constant_and_uniform_keep_their_promise():
    rng = Random(1)
    assert Constant(0.05).delay_s(1, 2, rng) == 0.05
    delays = [Uniform(0.025, 0.075).delay_s(1, 2, rng) for _ in range(5000)]
    assert 0.025 <= min(delays) < 0.026
    assert 0.074 < max(delays) <= 0.075
    assert sum(delays) / 5000 == pytest.approx(0.05, abs=0.001)


def test_great_circle_distances_are_those_of_an_atlas():
    assert great_circle_km((50.11, 8.68), (40.71, -74.01)) == pytest.approx(6200, rel=0.01)
    assert great_circle_km((51.51, -0.13), (-33.87, 151.21)) == pytest.approx(16_990, rel=0.01)
    assert great_circle_km((0, 0), (0, 180)) == pytest.approx(20_015, rel=0.001)


def test_shipped_matrix_is_symmetric_and_obeys_light():
    matrix = shipped_matrix()
    count = len(matrix.regions)
    assert count >= 30
    for row in range(count):
        for column in range(count):
            assert matrix.one_way_s[row][column] == matrix.one_way_s[column][row]
            assert 0.004 <= matrix.one_way_s[row][column] < 0.18
    berlin, tokyo = matrix.regions.index("Berlin"), matrix.regions.index("Tokyo")
    assert matrix.one_way_s[berlin][tokyo] == pytest.approx(0.0754, rel=0.02)


def test_hosts_keep_their_region_and_spread_over_all():
    regions = [region_of(host, 32) for host in range(5000)]
    assert set(regions) == set(range(32))
    assert regions == [region_of(host, 32) for host in range(5000)]


def test_geographic_delay_lies_up_to_a_tenth_above_the_matrix():
    latency = build_latency("geographic")
    assert isinstance(latency, Geographic)
    base = latency.matrix.one_way_s[region_of(3, 32)][region_of(4, 32)]
    delays = [latency.delay_s(3, 4, Random(seed)) for seed in range(200)]
    assert base <= min(delays) < max(delays) <= 1.1 * base


def test_a_matrix_file_is_read(tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_text(",Berlin,Tokyo\nBerlin,4,75.3\nTokyo,80,4\n")
    matrix = read_matrix(path)
    assert matrix.regions == ("Berlin", "Tokyo")
    assert matrix.one_way_s[0] == pytest.approx((0.004, 0.0753))
    assert matrix.one_way_s[1] == pytest.approx((0.08, 0.004))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "not square"),
        (b",a,b\na,1,2\n", "not square"),
        (b",a,b\na,1,2\nb,1\n", "Row 3"),
        (b",a,b\na,1,2\nc,1,2\n", "Row 3"),
        (b",a\na,-1\n", "no delay"),
        (b",a\na,nan\n", "no delay"),
        (b",a\na,x\n", "no delay"),
        (b"\xff\xff", "no CSV text"),
    ],
)
def test_a_bad_matrix_gets_one_sentence(content, names, tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=names):
        read_matrix(path)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Constant(-1.0),
        lambda: Uniform(0.2, 0.1),
        lambda: Uniform(0.1, float("nan")),
        lambda: build_latency("warp"),
    ],
)
def test_impossible_latencies_are_refused(build):
    with pytest.raises(ConfigurationError):
        build()
