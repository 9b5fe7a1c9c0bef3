import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.config.values import (
    DESTINATIONS,
    ESP_SUITE,
    EXIT_RULES,
    FILE_PATH,
    FORBIDDEN_PREFIXES,
    INNER_IPV4_POOL,
    INNER_IPV6_POOL,
    NAME,
    NETWORK_NAME,
    endpoint,
    endpoints,
)
from overlay.settings import FLAG, many, number, one_of, or_zero, seconds, some_of, whole
from overlay.settings.describe import toml_value

KINDS = (
    DESTINATIONS,
    ESP_SUITE,
    EXIT_RULES,
    FILE_PATH,
    FLAG,
    FORBIDDEN_PREFIXES,
    INNER_IPV4_POOL,
    INNER_IPV6_POOL,
    NAME,
    NETWORK_NAME,
    endpoints(0),
    many(number(1, 9)),
    one_of("a", "b"),
    or_zero(seconds(5, 9), "none"),
    seconds(1, 9),
    some_of("a", "b"),
    whole(1, 9),
)

plain = st.one_of(st.booleans(), st.integers(), st.floats(), st.text())
anything = st.one_of(plain, st.lists(plain), st.dictionaries(st.text(), plain))
almost = st.from_regex(r"\A[\[0-9a-f.:\]/%*-]{0,24}\Z")


@pytest.mark.slow
@given(st.sampled_from(KINDS), st.one_of(anything, almost, st.lists(almost)))
def test_any_value_is_parsed_or_refused_with_a_sentence(kind, value):
    try:
        parsed, refusal = kind.parse(value), "none"
    except ValueError as error:
        refusal = str(error)
    else:
        assert kind.parse(parsed) == parsed, "a kind accepts its own results"
    assert refusal


@given(st.sampled_from(KINDS), st.one_of(st.text(), st.from_regex(r"\A[+_ -]?[0-9_.e,]{1,30}\Z")))
def test_any_word_of_the_command_line_is_read(kind, word):
    try:
        kind.parse(kind.read(word))
        refusal = "none"
    except ValueError as error:
        refusal = str(error)
    assert refusal


@given(st.ip_addresses(), st.integers(1, 65535))
def test_endpoint_is_read_back_as_it_is_written(address, port):
    expected = Endpoint.parse(str(address).partition("%")[0], port)
    assert endpoint(str(expected)) == expected


@pytest.mark.slow
@given(st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(), st.lists(st.text())))
def test_value_is_read_back_as_it_is_spelled_in_toml(value):
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value
