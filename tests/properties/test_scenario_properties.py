"""Scenarios survive the way through TOML; hostile TOML yields a ConfigurationError or a value."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigurationError
from sims.scenario.expectation import COMPARISONS, STATISTICS, Expectation
from sims.scenario.plain import SECTIONS, scenario_of
from sims.scenario.scenario import Adversary, Churn, Circuits, LatencySection, Scenario
from sims.scenario.sections import BEHAVIOURS
from sims.scenario.study import parse_axis
from sims.scenario.toml import parse_toml, render_toml

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=60)
shares = st.floats(0.001, 0.9)

expectations = st.builds(
    Expectation,
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.sampled_from([*STATISTICS, "median", "p5", "p99.9"]),
    st.sampled_from(COMPARISONS),
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"([A-Za-z0-9._-]{1,20})?", fullmatch=True),
)

scenarios = st.builds(
    Scenario,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    question=texts,
    nodes=st.integers(100, 10_000_000),
    duration_s=st.floats(1, 1e6),
    warm_up_s=st.floats(0, 1e6),
    verify_signatures=st.booleans(),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5, unique=True),
    expectations=st.lists(expectations, max_size=3),
    dht=st.dictionaries(texts, st.one_of(st.integers(), st.booleans(), texts), max_size=3),
    churn=st.builds(Churn, texts.filter(str.strip)),
    latency=st.builds(LatencySection, low_s=st.floats(0, 0.02), loss=st.floats(0, 0.99)),
    adversary=st.builds(
        Adversary, shares, st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=3)
    ),
    circuits=st.builds(Circuits, st.integers(0, 99)),
)

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from([*Scenario.__dataclass_fields__, *SECTIONS, "share", "model", "x"])


@pytest.mark.slow
@given(scenarios)
def test_reading_what_was_written_gives_the_same_scenario(scenario):
    assert parse_toml(render_toml(scenario)) == scenario


@given(st.text(max_size=200))
def test_any_text_is_refused_with_our_own_error_or_is_a_scenario(text):
    with contextlib.suppress(ConfigurationError):
        assert isinstance(parse_toml(text), Scenario)


@pytest.mark.slow
@given(st.dictionaries(names, st.one_of(values, st.dictionaries(names, values)), max_size=4))
def test_any_tables_are_refused_with_our_own_error_or_are_a_scenario(tables):
    with contextlib.suppress(ConfigurationError):
        assert isinstance(scenario_of(tables), Scenario)


@pytest.mark.slow
@given(scenarios, st.integers(0), st.integers(0, 255))
def test_a_damaged_file_is_refused_with_our_own_error_or_is_a_scenario(scenario, place, byte):
    data = bytearray(render_toml(scenario).encode())
    data[place % len(data)] = byte
    with contextlib.suppress(ConfigurationError):
        assert isinstance(parse_toml(data.decode(errors="replace")), Scenario)


@given(st.text(max_size=60))
def test_any_axis_is_refused_with_our_own_error_or_has_values(text):
    with contextlib.suppress(ConfigurationError):
        assert parse_axis(text).values
