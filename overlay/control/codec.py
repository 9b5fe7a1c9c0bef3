"""Encode and decode the JSON of the control socket: each line is one request or response.

::

    {"method": "open_paths", "parameters": {"destinations": ["192.0.2.7/32"], "hops": 3}}
    {"method": "close_path", "parameters": {"path": "192.0.2.7/32"}}
    {"ok": true, "result": [{"number": 1, "destination": "192.0.2.7/32", ...}]}
    {"ok": false, "error": "there is no path 4; open paths: 1.", "kind": "ConfigurationError"}

Decoding any bytes either returns a value or raises :class:`~overlay.errors.Malformed`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from overlay.addresses import (
    NODE_ID_BYTES,
    NodeId,
    OverlayAddress,
    format_address,
    is_overlay_address,
)
from overlay.control.reports import Report, decode_report, encode_report
from overlay.control.service import (
    MAX_DESTINATIONS,
    ClosePathRequest,
    OpenPathsRequest,
    PathsRequest,
    PeersRequest,
    Request,
    StatusRequest,
    StopRequest,
)
from overlay.destinations import parse_destination
from overlay.errors import Malformed
from overlay.hop_limit import MAX_HOPS

__all__ = [
    "MAX_NAME_CHARACTERS",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "Failure",
    "decode_report_list",
    "decode_request",
    "decode_response",
    "encode_failure",
    "encode_request",
    "encode_success",
    "parse_destination",
    "parse_hop",
]

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""Limit of the client. Answers stay far below it, because the topology table is limited."""

MAX_NAME_CHARACTERS: Final = 64
_MAX_NUMBER: Final = 2**53 - 1
"""The largest integer that all JSON implementations read exactly (RFC 8259, section 6)."""

_PLAIN: Final[dict[str, type[StatusRequest | PeersRequest | PathsRequest]]] = {
    "status": StatusRequest,
    "peers": PeersRequest,
    "paths": PathsRequest,
}
_OPTIONS: Final = {"hops", "strategy", "via", "both_versions"}
"""Parameters of open_paths besides the destinations."""

R = TypeVar("R", bound=Report)


@dataclass(frozen=True, slots=True)
class Failure:
    """A response to a request that failed: a message, and the class of the node's error."""

    error: str
    kind: str


def encode_request(request: Request) -> bytes:
    """Return a request as one line, including its newline."""
    match request:
        case OpenPathsRequest():
            all_of = {"destinations": [str(each) for each in request.destinations]}
            return _line({"method": "open_paths", "parameters": all_of | _options(request)})
        case ClosePathRequest(path=path):
            which = "all" if path is None else path if isinstance(path, int) else str(path)
            return _line({"method": "close_path", "parameters": {"path": which}})
        case StopRequest(release=release):
            return _line({"method": "stop", "parameters": {"release": release}})
    method = next(name for name, kind in _PLAIN.items() if isinstance(request, kind))
    return _line({"method": method})


def decode_request(line: bytes) -> Request:
    """Parse one line without its newline.

    Raises:
        Malformed: the line is no valid request; the message tells the sender why.
    """
    if len(line) > MAX_REQUEST_BYTES:
        raise Malformed(f"a request has at most {MAX_REQUEST_BYTES} bytes.")
    message = _object(_load(line), "a request", {"method"}, {"parameters"})
    method, parameters = message["method"], message.get("parameters", {})
    if isinstance(method, str) and method in _PLAIN:
        _object(parameters, f"the parameters of {method}", set(), set())
        return _PLAIN[method]()
    if isinstance(method, str) and method in _DECODERS:
        return _DECODERS[method](parameters)
    known = ", ".join((*_PLAIN, *_DECODERS))
    raise Malformed(f"there is no such method; known methods: {known}.")


def encode_success(result: Report | list[Report] | int | None) -> bytes:
    """Return a response with a result, as one line."""
    if isinstance(result, list):
        return _line({"ok": True, "result": [encode_report(report) for report in result]})
    plain = result if result is None or isinstance(result, int) else encode_report(result)
    return _line({"ok": True, "result": plain})


def encode_failure(failure: Failure) -> bytes:
    """Return a response for a failed request, as one line."""
    return _line({"ok": False, "error": failure.error, "kind": failure.kind})


def decode_response(line: bytes) -> Any:  # noqa: ANN401 - the caller knows the method's result
    """Return the result in a response as plain JSON, or its :class:`Failure`.

    Raises:
        Malformed: the line is no valid response.
    """
    message = _load(line)
    if isinstance(message, dict) and message.get("ok") is True:
        return _object(message, "a response", {"ok", "result"}, set())["result"]
    message = _object(message, "a response", {"ok", "error", "kind"}, set())
    error, kind = message["error"], message["kind"]
    if message["ok"] is not False or not isinstance(error, str) or not isinstance(kind, str):
        raise Malformed("a response is either a result or an error with its kind.")
    return Failure(error, kind)


def decode_report_list(report_type: type[R], value: object) -> list[R]:
    """Return the reports of a list result.

    Raises:
        Malformed: the value is no list of valid reports of this type.
    """
    if not isinstance(value, list):
        raise Malformed("the result must be a list.")
    return [decode_report(report_type, item) for item in value]


def parse_hop(text: str) -> NodeId | OverlayAddress:
    """Parse a Mix-node that a user named by node id (40 hex digits) or overlay address.

    Raises:
        Malformed: the text is neither of them.
    """
    if len(text) == 2 * NODE_ID_BYTES:
        try:
            return NodeId(bytes.fromhex(text))
        except ValueError:
            pass  # an overlay address can also have 40 characters
    try:
        packed = ipaddress.ip_address(text).packed
    except ValueError:
        packed = b""
    if not is_overlay_address(packed) or "%" in text:
        raise Malformed(
            f"{text[:64]!r} names no node; write its node id (40 hexadecimal digits) or its "
            'overlay address (fd6d:6978:...), as "overlay peers" shows them.'
        )
    return OverlayAddress(packed)


def _options(request: OpenPathsRequest) -> dict[str, object]:
    parameters: dict[str, object] = {}
    if request.hops is not None:
        parameters["hops"] = request.hops
    if request.strategy is not None:
        parameters["strategy"] = request.strategy
    if request.via:
        parameters["via"] = [_format_hop(hop) for hop in request.via]
    if request.both_versions is not None:
        parameters["both_versions"] = request.both_versions
    return parameters


def _format_hop(hop: bytes) -> str:
    return hop.hex() if len(hop) == NODE_ID_BYTES else format_address(hop)


def _decode_open(parameters: object) -> OpenPathsRequest:
    table = _object(parameters, "the parameters of open_paths", {"destinations"}, _OPTIONS)
    texts = table["destinations"]
    if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
        raise Malformed("destinations must be a list of addresses or prefixes, as text.")
    if not 1 <= len(texts) <= MAX_DESTINATIONS:
        raise Malformed(f"destinations must name 1 to {MAX_DESTINATIONS} of them.")
    destinations = tuple(dict.fromkeys(parse_destination(text) for text in texts))
    return OpenPathsRequest(destinations, *_decode_options(table))


def _decode_options(
    table: dict[str, Any],
) -> tuple[int | None, str | None, tuple[NodeId | OverlayAddress, ...], bool | None]:
    hops, both = table.get("hops"), table.get("both_versions")
    return (
        None if hops is None else _whole_number(hops, "hops", 1, MAX_HOPS),
        _decode_strategy(table.get("strategy")),
        _decode_via(table.get("via", [])),
        None if both is None else _boolean(both, "both_versions"),
    )


def _decode_strategy(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARACTERS:
        raise Malformed("strategy must be the name of a path selection strategy.")
    return value


def _decode_via(value: object) -> tuple[NodeId | OverlayAddress, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed("via must be a list of nodes, each a node id or an overlay address.")
    if len(value) > MAX_HOPS:
        raise Malformed(f"via names at most {MAX_HOPS} nodes.")
    return tuple(parse_hop(item) for item in value)


def _decode_close(parameters: object) -> ClosePathRequest:
    path = _object(parameters, "the parameters of close_path", {"path"}, set())["path"]
    if path == "all":
        return ClosePathRequest(None)
    if isinstance(path, str):
        return ClosePathRequest(parse_destination(path))
    return ClosePathRequest(_whole_number(path, "path", 1, _MAX_NUMBER))


def _decode_stop(parameters: object) -> StopRequest:
    table = _object(parameters, "the parameters of stop", set(), {"release"})
    return StopRequest(_boolean(table.get("release", False), "release"))


_DECODERS: Final[dict[str, Callable[[object], Request]]] = {
    "open_paths": _decode_open,
    "close_path": _decode_close,
    "stop": _decode_stop,
}


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{name} must be true or false.")
    return value


def _whole_number(value: object, name: str, lowest: int, highest: int) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise Malformed(f"{name} must be a whole number from {lowest} to {highest}.")
    return value


def _object(value: object, what: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{what} must be a JSON object.")
    missing = sorted(required - value.keys())
    if missing:
        raise Malformed(f"{what} must have {', '.join(missing)}.")
    if not value.keys() <= required | optional:
        known = ", ".join(sorted(required | optional)) or "nothing"
        raise Malformed(f"{what} may have {known} and nothing else.")
    return value


def _load(line: bytes) -> object:
    try:
        return json.loads(
            line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        raise Malformed("the line is not valid JSON in UTF-8.") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice")
    return table


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
