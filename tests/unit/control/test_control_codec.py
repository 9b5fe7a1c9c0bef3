import ipaddress
import json

import pytest

from overlay.control.codec import (
    MAX_REQUEST_BYTES,
    Failure,
    decode_report_list,
    decode_request,
    decode_response,
    encode_failure,
    encode_request,
    encode_success,
    parse_hop,
)
from overlay.control.failure import failure_of, overlay_error_in
from overlay.control.reports import decode_report, encode_report
from overlay.control.service import (
    ClosePathRequest,
    HopReport,
    OpenPathsRequest,
    PathReport,
    PathsRequest,
    PeersRequest,
    StatusRequest,
    StopRequest,
)
from overlay.errors import InternalError, Malformed, NotAuthentic, PathError

NODE_ID = bytes(range(20))
OVERLAY_ADDRESS = bytes.fromhex("fd6d6978") + bytes(11) + b"\x07"

REQUESTS = [
    StatusRequest(),
    PeersRequest(),
    PathsRequest(),
    StopRequest(),
    StopRequest(release=True),
    OpenPathsRequest((ipaddress.ip_network("192.0.2.7"),), both_versions=True),
    OpenPathsRequest(
        (ipaddress.ip_network("192.0.2.7"), ipaddress.ip_network("2001:db8::7")),
        hops=2,
        via=(NODE_ID,),
        both_versions=False,
    ),
    ClosePathRequest(ipaddress.ip_network("2001:db8::/32")),
    OpenPathsRequest((ipaddress.ip_network("192.0.2.7"),)),
    OpenPathsRequest(
        (ipaddress.ip_network("2001:db8::/32"),),
        hops=5,
        strategy="explicit",
        via=(NODE_ID, OVERLAY_ADDRESS),
    ),
    ClosePathRequest(1),
    ClosePathRequest(None),
]

PATH = PathReport(
    number=3,
    destination="192.0.2.7/32",
    state="open",
    hops=(HopReport("00" * 20, "fd6d:6978::7"),),
    inner_addresses=("100.64.0.2", "fd69:6e6e:6572::2"),
    rtt_ms=None,
    age_s=1.5,
    strategy="uniform",
    mtu=1180,
)
PLAIN = json.loads(json.dumps(encode_report(PATH)))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_request_is_one_line_and_read_back_as_it_was(request_):
    line = encode_request(request_)
    assert line.count(b"\n") == 1
    assert decode_request(line[:-1]) == request_


BAD_REQUESTS = {
    "": "not valid JSON",
    "{": "not valid JSON",
    "[]": "a request must be a JSON object",
    "null": "a request must be a JSON object",
    "{}": "a request must have method",
    '{"method":"status","method":"stop"}': "not valid JSON",
    '{"method":"fly"}': "no such method; known methods: status",
    '{"method":["status"]}': "no such method",
    '{"method":"status","extra":1}': "may have method, parameters and nothing else",
    '{"method":"status","parameters":{"x":1}}': "may have nothing and nothing else",
    '{"method":"status","parameters":[]}': "must be a JSON object",
    '{"method":"open_path","parameters":{"destination":"1.2.3.4"}}': "there is no such method",
    '{"method":"open_paths"}': "must have destinations",
    '{"method":"open_paths","parameters":{"destinations":[7]}}': "destinations must be a list",
    '{"method":"open_paths","parameters":{"destinations":["a.example"]}}': "is a host name",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"hops":0}}': "from 1 to 5",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"hops":6}}': "from 1 to 5",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"hops":true}}': "whole number",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"hops":2.0}}': "whole number",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"strategy":""}}': "strategy",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"via":"x"}}': "via must be",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"via":[1]}}': "via must be",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"via":["x"]}}': "no node",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"via":["","","","","",""]}}': (
        "at most 5 nodes"
    ),
    '{"method":"close_path","parameters":{}}': "must have path",
    '{"method":"close_path","parameters":{"path":0}}': "path must be a whole number",
    '{"method":"close_path","parameters":{"path":"ALL"}}': "is a host name",
    '{"method":"close_path","parameters":{"path":[]}}': "path must be a whole number",
    '{"method":"stop","parameters":{"release":1}}': "release must be true or false",
    '{"method":"stop","parameters":{"now":true}}': "may have release and nothing else",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4"],"both_versions":0}}': (
        "both_versions must be true or false"
    ),
    '{"method":"open_paths","parameters":{"destinations":[]}}': "must name 1 to 64",
    '{"method":"open_paths","parameters":{"destinations":"1.2.3.4"}}': "must be a list",
    '{"method":"open_paths","parameters":{"destinations":["1.2.3.4",5]}}': "must be a list",
    '{"method":"open_paths","parameters":{"destination":"1.2.3.4"}}': "must have destinations",
    '{"method":"close_path","parameters":{"path":9007199254740992}}': "path must be a whole number",
    '{"method":"close_path","parameters":{"path":NaN}}': "not valid JSON",
    '{"method":"close_path","parameters":{"path":' + "9" * 5000 + "}}": "not valid JSON",
    "[" * 60_000: "not valid JSON",
    "\ud800": "not valid JSON",
}


@pytest.mark.parametrize("text", BAD_REQUESTS, ids=lambda text: text[:60])
def test_line_that_is_no_request_is_refused_with_the_reason(text):
    with pytest.raises(Malformed, match=BAD_REQUESTS[text]):
        decode_request(text.encode(errors="surrogatepass"))


def test_request_at_its_limit_is_read_and_over_it_refused():
    line = b'{"method":"status"}'
    assert decode_request(line.ljust(MAX_REQUEST_BYTES)) == StatusRequest()
    with pytest.raises(Malformed, match="at most 65536 bytes"):
        decode_request(line.ljust(MAX_REQUEST_BYTES + 1))


def test_truncated_and_extended_requests_are_refused_at_every_length():
    line = encode_request(OpenPathsRequest((ipaddress.ip_network("192.0.2.7"),), 3))[:-1]
    for length in range(len(line)):
        with pytest.raises(Malformed):
            decode_request(line[:length])
    with pytest.raises(Malformed):
        decode_request(line + b"}")


@pytest.mark.parametrize("text", ["", "00" * 19, "zz" * 20, "2001:db8::1", "10.0.0.1", "a.example"])
def test_what_names_no_node_is_refused(text):
    with pytest.raises(Malformed, match="names no node"):
        parse_hop(text)


def test_node_is_named_by_its_id_or_its_overlay_address():
    assert parse_hop(NODE_ID.hex()) == NODE_ID
    assert parse_hop("fd6d:6978::7") == OVERLAY_ADDRESS
    full = "fd6d:6978:0000:0000:0000:0000:0000:0007"
    assert parse_hop(full) == OVERLAY_ADDRESS


def test_report_is_read_back_as_it_was():
    line = encode_success([PATH])
    assert decode_report_list(PathReport, decode_response(line)) == [PATH]
    assert decode_response(encode_success(4)) == 4
    assert decode_response(encode_success(None)) is None


def test_report_of_a_later_version_is_read_without_what_is_unknown():
    assert decode_report(PathReport, PLAIN | {"colour": "green"}) == PATH


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "3"),
        ("number", True),
        ("hops", {}),
        ("hops", [1]),
        ("hops", [{"node_id": "x"}]),
        ("inner_addresses", [1]),
        ("rtt_ms", "1"),
        ("age_s", None),
        ("age_s", 10**400),
    ],
)
def test_report_with_a_wrong_type_is_refused(field, value):
    with pytest.raises(Malformed):
        decode_report(PathReport, PLAIN | {field: value})


def test_report_that_lacks_a_field_is_refused():
    for name in PLAIN:
        with pytest.raises(Malformed, match=f"lacks {name}"):
            decode_report(PathReport, {key: PLAIN[key] for key in PLAIN if key != name})


def test_failure_is_read_back_as_it_was():
    failure = Failure("there is no path 4.", "ConfigurationError")
    assert decode_response(encode_failure(failure)) == failure


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"ok": 1, "result": 1},
        {"ok": False},
        {"ok": True},
        {"ok": True, "error": "", "kind": ""},
        {"ok": False, "error": 1, "kind": ""},
        {"ok": False, "error": "", "kind": "", "result": 1},
    ],
)
def test_line_that_is_no_response_is_refused(message):
    with pytest.raises(Malformed):
        decode_response(json.dumps(message).encode())


def test_group_of_our_errors_is_answered_with_the_gravest():
    group = ExceptionGroup("", [PathError("no."), ExceptionGroup("", [InternalError("broken.")])])
    assert failure_of(group) == Failure("broken.", "InternalError")
    assert failure_of(ExceptionGroup("", [NotAuthentic("no.")])).kind == "NotAuthentic"


def test_group_with_an_error_that_is_not_ours_is_a_bug():
    group = ExceptionGroup("", [PathError("no."), KeyError("secret")])
    assert overlay_error_in(group) is None
    failure = failure_of(KeyError("secret"))
    assert failure.kind == "InternalError"
    assert "secret" not in failure.error
