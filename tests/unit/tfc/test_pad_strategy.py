"""The padding strategy: one size for all, dummies as a Poisson process for each link."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc

import pytest

from overlay.tfc.pad import PadSettings, PadTfc
from overlay.tfc.strategy import LinkHandle

NOW = 1_800_000_000.0


def strategy(rate_pps: float, links: int = 1, seed: int = 7) -> PadTfc:
    tfc = PadTfc(PadSettings(dummy_rate_pps=rate_pps), random.Random(seed))
    for number in range(links):
        tfc.link_opened(LinkHandle(number), NOW)
    return tfc


def run(tfc: PadTfc, until: float) -> list[tuple[float, LinkHandle]]:
    """Wake it at each of its deadlines, to the moment; return when it wanted which dummy."""
    sent = []
    while (deadline := tfc.next_deadline()) <= until:
        sent += [(deadline, link) for link in tfc.due(deadline)]
    return sent


def test_every_packet_gets_the_links_size() -> None:
    assert strategy(0.0).pad_to(1438) == 1438


def test_without_a_rate_there_is_never_a_dummy() -> None:
    tfc = strategy(0.0, links=3)
    assert tfc.next_deadline() == math.inf
    assert tfc.due(NOW + 1e6) == []


def test_mean_rate_is_the_configured_one() -> None:
    # 20,000 expected; one standard deviation is their square root, 141.
    sent = run(strategy(10.0), NOW + 2000.0)
    assert abs(len(sent) - 20_000) < 4 * 141


def test_gaps_are_exponential() -> None:
    times = [when for when, _ in run(strategy(10.0), NOW + 500.0)]
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    count = len(gaps)
    distance = max(
        abs((number + 0.5) / count - (1 - math.exp(-10.0 * gap))) for number, gap in enumerate(gaps)
    )
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is passed by chance once in a hundred; the seed is fixed.
    assert count > 4000
    assert distance < 1.63 / math.sqrt(count)


def test_links_are_independent() -> None:
    sent = run(strategy(5.0, links=2), NOW + 1000.0)
    in_second: list[list[int]] = [[0] * 1000, [0] * 1000]
    for when, link in sent:
        in_second[link][min(int(when - NOW), 999)] += 1
    means = [sum(counts) / 1000 for counts in in_second]
    covariance = (
        sum((a - means[0]) * (b - means[1]) for a, b in zip(*in_second, strict=True)) / 1000
    )
    # Correlation of independent counts has a standard deviation of 1 / sqrt(1000).
    assert abs(covariance / 5.0) < 4 / math.sqrt(1000)


def test_deadline_lies_strictly_ahead_after_every_call() -> None:
    class NoGap(random.Random):
        def expovariate(self, lambd: float = 1.0) -> float:
            return 0.0

    tfc = PadTfc(PadSettings(dummy_rate_pps=1000.0), NoGap())
    tfc.link_opened(LinkHandle(1), NOW)
    for _ in range(5):
        now = tfc.next_deadline()
        assert now > NOW
        assert tfc.due(now) == [1]
        assert tfc.next_deadline() > now


def test_a_long_sleep_is_followed_by_no_burst() -> None:
    tfc = strategy(100.0, links=3)
    woken = NOW + 86_400.0
    assert sorted(tfc.due(woken)) == [0, 1, 2]
    assert tfc.due(woken) == []
    assert tfc.next_deadline() > woken


def test_called_early_it_sends_nothing_and_moves_nothing() -> None:
    tfc = strategy(1.0)
    deadline = tfc.next_deadline()
    assert tfc.due(math.nextafter(deadline, 0.0)) == []
    assert tfc.next_deadline() == deadline


def test_a_closed_link_gets_no_dummy_and_an_unknown_one_is_no_error() -> None:
    tfc = strategy(10.0, links=2)
    tfc.link_closed(LinkHandle(0))
    tfc.link_closed(LinkHandle(99))
    assert {link for _, link in run(tfc, NOW + 100.0)} == {1}
    tfc.link_closed(LinkHandle(1))
    assert tfc.next_deadline() == math.inf


def test_a_link_opened_twice_keeps_one_process() -> None:
    tfc = strategy(10.0)
    tfc.link_opened(LinkHandle(0), NOW)
    assert abs(len(run(tfc, NOW + 1000.0)) - 10_000) < 4 * 100


def test_links_that_come_and_go_leave_nothing_behind() -> None:
    tfc = strategy(0.001, links=4)
    tracemalloc.start()
    for number in range(10_000):
        tfc.link_opened(LinkHandle(100 + number), NOW)
        tfc.link_closed(LinkHandle(100 + number))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 32_768, "10,000 links would take more than 1 MB"
    assert {link for _, link in run(tfc, NOW + 100_000.0)} == {0, 1, 2, 3}


@pytest.mark.parametrize("rate", [-0.1, 1000.1, math.inf, math.nan])
def test_a_rate_out_of_range_is_a_sentence(rate: float) -> None:
    with pytest.raises(ValueError, match=r"^dummy_rate_pps must lie between .* per second, not"):
        PadSettings(dummy_rate_pps=rate)
