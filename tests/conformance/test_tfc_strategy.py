"""What every registered traffic flow confidentiality strategy promises the node."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from overlay.plugins import load_plugin, plugin_names
from overlay.settings import read_settings
from overlay.tfc.strategy import LinkHandle, TfcStrategy

NOW = 1_800_000_000.0
GROUP = "overlay.tfc"
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in plugin_names(GROUP)),
    ("pad", {"dummy_rate_pps": 20.0}),
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, (variant[0], *variant[1]))))
def tfc(request: pytest.FixtureRequest) -> TfcStrategy:
    name, given = request.param
    strategy = load_plugin(GROUP, name)
    built: TfcStrategy = strategy(
        read_settings(f"tfc.{name}", strategy.settings_type, given), random.Random(5)
    )
    return built


def test_ours_are_registered() -> None:
    assert {"none", "pad"} <= set(plugin_names(GROUP))


@pytest.mark.parametrize("link_mtu", [576, 1280, 1438, 9000])
def test_padding_never_exceeds_the_link(tfc: TfcStrategy, link_mtu: int) -> None:
    assert 0 <= tfc.pad_to(link_mtu) <= link_mtu


def test_without_links_there_is_nothing_to_do(tfc: TfcStrategy) -> None:
    assert tfc.next_deadline() == math.inf
    assert list(tfc.due(NOW)) == []


def test_only_open_links_get_dummies_and_deadlines_lie_ahead(tfc: TfcStrategy) -> None:
    for number in range(5):
        tfc.link_opened(LinkHandle(number), NOW)
    tfc.link_closed(LinkHandle(3))
    now = NOW
    for _ in range(200):
        now = min(max(now, tfc.next_deadline()), now + 10.0)
        assert set(tfc.due(now)) <= {0, 1, 2, 4}
        assert tfc.next_deadline() > now


def test_a_late_call_asks_for_a_bounded_number_of_dummies(tfc: TfcStrategy) -> None:
    for number in range(5):
        tfc.link_opened(LinkHandle(number), NOW)
    assert len(tfc.due(NOW + 1e6)) <= 5
    assert tfc.next_deadline() > NOW + 1e6


def test_closing_every_link_ends_all_work(tfc: TfcStrategy) -> None:
    for number in range(5):
        tfc.link_opened(LinkHandle(number), NOW)
    for number in range(5):
        tfc.link_closed(LinkHandle(number))
        tfc.link_closed(LinkHandle(number))
    assert tfc.next_deadline() == math.inf
    assert list(tfc.due(NOW + 1e6)) == []
