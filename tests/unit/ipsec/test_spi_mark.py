"""The secret property of a node's link SPIs."""

from random import Random

import pytest

from overlay.apm.spi import SpiAllocator
from overlay.ipsec.interface import MIN_SPI
from overlay.ipsec.spi_mark import SpiMark


@pytest.mark.parametrize("seed", range(20))
def test_drawn_spis_have_the_property_and_are_never_reserved(seed):
    rng = Random(seed)
    mark = SpiMark.draw(rng)
    drawn = [mark.draw_spi(rng) for _ in range(1000)]
    assert all(mark.is_on(spi) and MIN_SPI <= spi < 2**32 for spi in drawn)
    assert len(set(drawn)) > 990
    assert not mark.is_on(0)  # the non-ESP marker


def test_other_spis_have_it_about_once_in_4096_times():
    rng = Random(7)
    mark = SpiMark.draw(rng)
    hits = sum(mark.is_on(rng.getrandbits(32)) for _ in range(200_000))
    assert 20 <= hits <= 90  # 49 expected


def test_two_nodes_have_different_properties():
    rng = Random(8)
    one, other = SpiMark.draw(rng), SpiMark.draw(rng)
    assert sum(other.is_on(one.draw_spi(rng)) for _ in range(10_000)) < 20


def test_an_allocator_draws_marked_spis_for_links_and_others_for_circuits():
    rng = Random(9)
    mark, spis = SpiMark.draw(rng), SpiAllocator(rng)
    links = [spis.allocate(lambda: mark.draw_spi(rng)) for _ in range(500)]
    circuits = [spis.allocate() for _ in range(500)]
    assert all(map(mark.is_on, links))
    assert sum(map(mark.is_on, circuits)) < 5
    assert len({*links, *circuits}) == len(spis) == 1000
