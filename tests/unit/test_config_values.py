import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.config.render import toml_value
from overlay.config.values import (
    boolean,
    endpoint,
    esp_suite,
    exit_rules,
    file_path,
    forbidden_prefixes,
    inner_ipv4_pool,
    inner_ipv6_pool,
    integer,
    network_name,
)

PARSERS = (
    boolean,
    endpoint,
    esp_suite,
    exit_rules,
    file_path,
    forbidden_prefixes,
    inner_ipv4_pool,
    inner_ipv6_pool,
    integer(1, 9),
    network_name,
)

plain = st.one_of(st.booleans(), st.integers(), st.floats(), st.text())
anything = st.one_of(plain, st.lists(plain), st.dictionaries(st.text(), plain))
almost = st.from_regex(r"\A[\[0-9a-f.:\]/%*-]{0,24}\Z")


@pytest.mark.slow
@given(st.sampled_from(PARSERS), st.one_of(anything, almost, st.lists(almost)))
def test_any_value_is_parsed_or_refused_with_a_sentence(parser, value):
    try:
        parser(value)
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
