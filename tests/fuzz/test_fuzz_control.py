import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import PATH

from overlay.control.codec import (
    decode_report_list,
    decode_request,
    decode_response,
    encode_request,
    parse_destination,
    parse_hop,
)
from overlay.control.reports import decode_report
from overlay.control.service import PathReport, PeerReport, StatusReport
from overlay.errors import Malformed

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=8), inner)),
    max_leaves=8,
)
names = st.sampled_from(
    [
        *("destination", "destinations", "hops", "strategy", "via", "both_versions"),
        *("path", "release", "method", "parameters"),
    ]
)
REPORT = PATH | {
    "both_versions": False,
    "permanent": False,
    "stays_open": ["IPv6"],
}
requests = st.fixed_dictionaries(
    {"method": st.sampled_from(["status", "stop", "open_paths", "close_path", "fly"])},
    optional={
        "parameters": st.dictionaries(
            names,
            st.one_of(
                values,
                st.just("192.0.2.7"),
                st.just(["fd6d:6978::7"]),
                st.just(["192.0.2.7", "2001:db8::7"]),
                st.booleans(),
            ),
        )
    },
)


def value_or_malformed(decode, *arguments):
    """Return what was decoded, None if it was refused; anything else fails the test."""
    try:
        return decode(*arguments)
    except Malformed as refusal:
        return None if str(refusal) else "a refusal without its reason"


@pytest.mark.slow
@given(st.one_of(st.binary(max_size=400), requests.map(json.dumps).map(str.encode)))
def test_any_line_is_a_request_or_malformed(line):
    request = value_or_malformed(decode_request, line)
    if request is not None:
        assert decode_request(encode_request(request)[:-1]) == request


@pytest.mark.slow
@given(st.one_of(st.binary(max_size=400), values.map(json.dumps).map(str.encode)))
def test_any_line_is_a_response_or_malformed(line):
    assert value_or_malformed(decode_response, line) != "a refusal without its reason"


@pytest.mark.slow
@given(values, st.sampled_from([StatusReport, PeerReport, PathReport]))
def test_any_value_is_a_report_or_malformed(value, report_type):
    assert value_or_malformed(decode_report_list, report_type, value) in (None, [])


@pytest.mark.slow
@given(st.sampled_from(sorted(REPORT)), values)
def test_report_with_any_value_in_a_field_is_a_report_or_malformed(name, value):
    report = value_or_malformed(decode_report, PathReport, REPORT | {name: value})
    assert report is None or isinstance(report, PathReport)


@pytest.mark.slow
@given(st.one_of(st.text(max_size=60), st.from_regex(r"\A[0-9a-f:.%/]{1,45}\Z")))
def test_any_text_is_a_destination_and_a_hop_or_malformed(text):
    assert value_or_malformed(parse_destination, text) != "a refusal without its reason"
    assert value_or_malformed(parse_hop, text) != "a refusal without its reason"
