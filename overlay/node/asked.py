"""Check the arguments of a path request: types, ranges and spellings.

All arguments are checked before the node acts. So the caller gets one exception that says what to
write instead, and not an error of a task later on.

Reasons: docs/decisions/0052.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from overlay.addresses import (
    NODE_ID_BYTES,
    IpAddress,
    IpNetwork,
    NodeId,
    OverlayAddress,
    is_overlay_address,
)
from overlay.control.codec import parse_hop
from overlay.control.service import MAX_DESTINATIONS, HopReport, OpenPathsRequest, PeerReport
from overlay.destinations import parse_destination
from overlay.errors import ConfigurationError, Malformed
from overlay.hop_limit import MAX_HOPS

__all__ = ["Destination", "Hop", "request_of"]

T = TypeVar("T")

Destination = str | IpAddress | IpNetwork
"""A destination: "203.0.113.10", "2001:db8::/32", or a value of :mod:`ipaddress`."""

Hop = NodeId | OverlayAddress | str | PeerReport | HopReport
"""A Mix-node: its id or overlay address as bytes or text, or an entry of ``peers()``."""

_ADDRESSES: Final = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_NETWORKS: Final = (ipaddress.IPv4Network, ipaddress.IPv6Network)
_LISTS: Final = (Sequence, set, frozenset)


def request_of(
    destination: Destination | Iterable[Destination],
    *,
    hops: int | None,
    strategy: str | None,
    via: Iterable[Hop],
    both_versions: bool | None,
) -> OpenPathsRequest:
    """Check the arguments and return them as a request.

    Args:
        destination: 1 to ``MAX_DESTINATIONS`` addresses or prefixes.
        hops: number of Mix-nodes, 1 to ``MAX_HOPS``; None for the configured number.
        strategy: name of a path selection strategy; None for the configured one.
        via: Mix-nodes for the first hops, first hop first; at most ``MAX_HOPS``.
        both_versions: whether to block the other IP version; None for the configured value.

    Raises:
        TypeError: an argument has a wrong type; the message names the argument.
        ConfigurationError: a value is out of range or cannot be parsed.
    """
    return OpenPathsRequest(
        _destinations(destination),
        _hops(hops),
        _optional("strategy", strategy, str, 'a name such as "uniform"'),
        _via(via),
        _optional("both_versions", both_versions, bool, "True, False or None"),
    )


def _destinations(given: Destination | Iterable[Destination]) -> tuple[IpNetwork, ...]:
    one = isinstance(given, (str, *_ADDRESSES, *_NETWORKS))
    # A bytes object is a sequence too, of whole numbers.
    if not one and (isinstance(given, bytes) or not isinstance(given, _LISTS)):
        raise TypeError(f"destination must be {_WANTED}, or a list of them, not {_kind(given)}.")
    listed = [given] if one else list(given)  # type: ignore[arg-type]  # just told apart
    found = tuple(dict.fromkeys(_destination(each) for each in listed))
    if not 1 <= len(found) <= MAX_DESTINATIONS:
        raise ConfigurationError(
            f"{len(found)} destinations are named; name 1 to {MAX_DESTINATIONS} in one request."
        )
    return found


_WANTED: Final = "an address or a prefix, as text or as a value of ipaddress"


def _destination(given: object) -> IpNetwork:
    if isinstance(given, (*_ADDRESSES, *_NETWORKS)):
        given = str(given)  # parse_destination also refuses zones and overlay addresses
    if not isinstance(given, str):
        raise TypeError(f"a destination must be {_WANTED}, not {_kind(given)}.")
    try:
        return parse_destination(given)
    except Malformed as error:
        raise ConfigurationError(f"destination {error}") from error


def _hops(given: object) -> int | None:
    if given is None:
        return None
    if type(given) is not int:  # not isinstance, because True is an int as well
        raise TypeError(f"hops must be a whole number from 1 to {MAX_HOPS}, not {_kind(given)}.")
    if not 1 <= given <= MAX_HOPS:
        raise ConfigurationError(f"hops must be a whole number from 1 to {MAX_HOPS}, not {given}.")
    return given


def _via(given: object) -> tuple[NodeId | OverlayAddress, ...]:
    # A str or bytes is iterable: without this check, it would be read as a list of characters.
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(
            f"via must be a list of nodes, the first hop first, not {_kind(given)}; write [NODE]."
        )
    nodes = tuple(_hop(each) for each in given)
    if len(nodes) > MAX_HOPS:
        raise ConfigurationError(f"via names {len(nodes)} nodes; a path has at most {MAX_HOPS}.")
    return nodes


def _hop(given: object) -> NodeId | OverlayAddress:
    if isinstance(given, PeerReport | HopReport):
        given = given.node_id
    if isinstance(given, str):
        try:
            return parse_hop(given)
        except Malformed as error:
            raise ConfigurationError(f"via: {error}") from error
    if isinstance(given, bytes) and len(given) == NODE_ID_BYTES:
        return NodeId(given)
    if isinstance(given, bytes) and is_overlay_address(given):
        return OverlayAddress(given)
    if isinstance(given, bytes):
        raise ConfigurationError(
            f"via names {given.hex()[:64]}, which is neither a node id ({NODE_ID_BYTES} bytes) nor "
            "an overlay address (16 bytes)."
        )
    raise TypeError(
        "a node in via must be what peers() returns, or an id or overlay address, not "
        f"{_kind(given)}."
    )


def _optional(name: str, given: T, kind: type, wanted: str) -> T:
    """Return ``given`` if it is None or of this type; ``wanted`` describes the type in errors."""
    if given is not None and type(given) is not kind:
        raise TypeError(f"{name} must be {wanted}, not {_kind(given)}.")
    return given


def _kind(given: object) -> str:
    """Return the value and its type for a message; long values are cut to 40 characters."""
    return f"{given!r:.40} ({type(given).__name__})"
