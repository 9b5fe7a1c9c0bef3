"""The corpus of the tree, run again; and inputs that differ from it a little.

``make fuzz`` grows it; tests/fuzz/seeds.py says what it began with.
"""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import CORPUS, seeds
from targets import TARGETS

MOST_BYTES = 300_000


@cache
def corpus(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*.bin"))}


def test_each_target_has_a_corpus_and_all_are_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == set(seeds())
    assert sum(len(data) for name in TARGETS for data in corpus(name).values()) < MOST_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_what_our_encoders_write_now_gives_a_value_or_our_error(name: str) -> None:
    """The corpus may be older than the last change of a format."""
    for data in seeds()[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_of_the_corpus_gives_a_value_or_our_error(name: str) -> None:
    for file, data in corpus(name).items():
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name}/{file} raised {error!r}") from error


def changed(data: bytes, other: bytes, rng: Random) -> bytes:
    """Splice two inputs, or change some bytes of one."""
    if rng.random() < 0.3:
        cut = rng.randrange(len(data) + 1)
        return data[:cut] + other[rng.randrange(len(other) + 1) :]
    mutable = bytearray(data)
    for _ in range(rng.randint(1, 4) if mutable else 0):
        mutable[rng.randrange(len(mutable))] = rng.choice(
            (0, 1, 0x7F, 0x80, 0xFF, rng.getrandbits(8))
        )
    return bytes(mutable)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@given(st.randoms(use_true_random=False), st.binary(max_size=200))
@settings(deadline=None, max_examples=20)
def test_what_differs_a_little_gives_a_value_or_our_error(name, rng, noise) -> None:
    inputs = list(corpus(name).values())
    TARGETS[name](changed(rng.choice(inputs), rng.choice(inputs), rng))
    TARGETS[name](noise)
