"""What nftables holds of one table, as a fingerprint: read through netlink, in microseconds.

The fingerprint covers the table's flags (a dormant table judges nothing), its chains with their
hooks, types and policies, and every rule's expressions in order. It leaves out handles and what
counts packets. Format: Linux uapi ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from typing import Final

from overlay.system.netlink_messages import (
    DUMP,
    answers,
    attribute,
    attribute_list,
    attributes,
    message,
)

__all__ = ["table_fingerprint"]

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE = 1, 4, 7
_INET: Final = bytes((1, 0, 0, 0))
"""nfgenmsg: family ``inet``, version 0, no resource."""

_TABLE_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_CHAIN_SHAPE: Final = (4, 5, 7, 10)  # hook, policy, type, flags
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_COMMENT = 1, 2, 4, 7
_EXPRESSION_NAME: Final = 1
_CHANGING: Final = frozenset((b"counter\0", b"quota\0", b"last\0"))
"""Expressions that hold what packets changed."""


def table_fingerprint(table: str) -> bytes | None:
    """Return the fingerprint of a table of the family ``inet``, or None if there is none.

    Raises:
        OSError: the kernel has no nftables, or this process may not ask.
    """
    name = table.encode() + b"\0"
    digest = hashlib.sha256()
    with _netfilter_socket() as netlink:
        flags = [
            found.get(_TABLE_FLAGS, b"")
            for found in _dump(netlink, _GET_TABLE)
            if found.get(_TABLE_NAME) == name
        ]
        if not flags:
            return None
        _add(digest, flags[0])
        for shape in sorted(
            (found.get(_CHAIN_NAME, b""), *(found.get(each, b"") for each in _CHAIN_SHAPE))
            for found in _dump(netlink, _GET_CHAIN)
            if found.get(_CHAIN_TABLE) == name
        ):
            _add(digest, *shape)
        for found in _dump(netlink, _GET_RULE, attribute(_RULE_TABLE, name)):
            if found.get(_RULE_TABLE) == name:
                _add(digest, found.get(_RULE_CHAIN, b""), found.get(_RULE_COMMENT, b""))
                _add(digest, *_expressions(found.get(_RULE_EXPRESSIONS, b"")))
    return digest.digest()


def _expressions(listed: bytes) -> Iterator[bytes]:
    for _, expression in attribute_list(listed):
        kind = attributes(expression).get(_EXPRESSION_NAME, b"")
        yield kind if kind in _CHANGING else expression


def _add(digest: hashlib._Hash, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)


def _dump(netlink: socket.socket, kind: int, wanted: bytes = b"") -> Iterator[dict[int, bytes]]:
    netlink.send(message(_SUBSYSTEM | kind, DUMP, _INET + wanted))
    for body in answers(netlink):
        yield attributes(body[len(_INET) :])


@contextlib.contextmanager
def _netfilter_socket() -> Iterator[socket.socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as netlink:
        netlink.bind((0, 0))
        yield netlink
