"""Read and remove a table of nftables through netlink, without the ``nft`` program.

This takes microseconds, and it works even if ``nft`` is no longer installed. The fingerprint of a
table covers three parts: its flags (a dormant table has no effect), its chains with hooks, types
and policies, and the expressions of all rules in order. Handles and counters are left out.
Format: Linux uapi ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from typing import Final

from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    attribute,
    attribute_list,
    attributes,
    message,
)

__all__ = ["delete_table", "table_fingerprint", "table_notes"]

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10 << 8
_GET_TABLE, _DELETE_TABLE, _GET_CHAIN, _GET_RULE = 1, 2, 4, 7
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_INET, _ARP, _BRIDGE = 1, 3, 7
_FAMILIES: Final = (_INET, _ARP, _BRIDGE)
_HEAD_BYTES: Final = 4
_FOR_NFTABLES: Final = bytes((0, 0, 0, 10))
"""nfgenmsg of a batch: any family, version 0, the subsystem as resource (network order)."""

_TABLE_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_CHAIN_SHAPE: Final = (4, 5, 7, 10)  # hook, policy, type, flags
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USER_DATA = 1, 2, 4, 7
_COMMENT: Final = 0
"""Type of the entry for the comment in a rule's user data (libnftnl/udata.h)."""
_EXPRESSION_NAME: Final = 1
_CHANGING: Final = frozenset((b"counter\0", b"quota\0", b"last\0"))
"""Expressions whose data change with each packet."""

_WITHOUT_NFTABLES: Final = frozenset(
    (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
)
"""Errors of a kernel without netfilter netlink, or without nftables."""


def table_fingerprint(table: str) -> bytes | None:
    """Return the fingerprint of a table of the family ``inet``, or None if there is no such table.

    Raises:
        OSError: a permission is missing.
    """
    with _netfilter_socket() as netlink:
        return _fingerprint(netlink, table.encode() + b"\0") if netlink is not None else None


def table_notes(table: str) -> tuple[str, ...] | None:
    """Return the comments of a table's chain ``notes``, or None if there is no such table.

    Raises:
        OSError: a permission is missing.
    """
    name = table.encode() + b"\0"
    with _netfilter_socket() as netlink:
        if netlink is None or not any(True for _ in list(_tables(netlink, _INET, name))):
            return None
        wanted = attribute(_RULE_TABLE, name) + attribute(_RULE_CHAIN, b"notes\0")
        rules = list(_dump(netlink, _GET_RULE, wanted))
    return tuple(
        _comment(rule.get(_RULE_USER_DATA, b""))
        for rule in rules
        if rule.get(_RULE_TABLE) == name and rule.get(_RULE_CHAIN) == b"notes\0"
    )


def delete_table(table: str) -> None:
    """Delete the tables of this name in ``inet``, ``arp`` and ``bridge`` in one transaction.

    None of them needs to exist.

    Raises:
        OSError: a permission is missing, or the kernel refused.
    """
    name = table.encode() + b"\0"
    with _netfilter_socket() as netlink:
        if netlink is None:
            return
        found = [each for each in _FAMILIES if list(_tables(netlink, each, name))]
        if not found:
            return
        changes = b"".join(
            message(
                _SUBSYSTEM | _DELETE_TABLE,
                ACKNOWLEDGE,
                _head(family) + attribute(_TABLE_NAME, name),
                sequence,
            )
            for sequence, family in enumerate(found, 2)
        )
        end = len(found) + 2
        netlink.send(
            message(_BATCH_BEGIN, 0, _FOR_NFTABLES)
            + changes
            + message(_BATCH_END, 0, _FOR_NFTABLES, end)
        )
        for _ in found:
            number = acknowledged_error(netlink)
            if number and number != errno.ENOENT:  # ENOENT: another program deleted it meanwhile
                raise OSError(number, os.strerror(number))


def _fingerprint(netlink: socket.socket, name: bytes) -> bytes | None:
    digest = hashlib.sha256()
    flags = [found.get(_TABLE_FLAGS, b"") for found in _tables(netlink, _INET, name)]
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
            _add(digest, found.get(_RULE_CHAIN, b""), found.get(_RULE_USER_DATA, b""))
            _add(digest, *_expressions(found.get(_RULE_EXPRESSIONS, b"")))
    return digest.digest()


def _tables(netlink: socket.socket, family: int, name: bytes) -> Iterator[dict[int, bytes]]:
    for found in _dump(netlink, _GET_TABLE, family=family):
        if found.get(_TABLE_NAME) == name:
            yield found


def _comment(user_data: bytes) -> str:
    """Return the comment in a rule's user data: entries of type (1), length (1), value."""
    while len(user_data) >= 2:
        kind, length = user_data[0], user_data[1]
        if kind == _COMMENT:
            return user_data[2 : 2 + length].rstrip(b"\0").decode(errors="replace")
        user_data = user_data[2 + length :]
    return ""


def _expressions(listed: bytes) -> Iterator[bytes]:
    for _, expression in attribute_list(listed):
        kind = attributes(expression).get(_EXPRESSION_NAME, b"")
        yield kind if kind in _CHANGING else expression


def _add(digest: hashlib._Hash, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)


def _head(family: int) -> bytes:
    """Return nfgenmsg: family, version 0, no resource."""
    return bytes((family, 0, 0, 0))


def _dump(
    netlink: socket.socket, kind: int, wanted: bytes = b"", *, family: int = _INET
) -> Iterator[dict[int, bytes]]:
    netlink.send(message(_SUBSYSTEM | kind, DUMP, _head(family) + wanted))
    for body in answers(netlink):
        yield attributes(body[_HEAD_BYTES:])


@contextlib.contextmanager
def _netfilter_socket() -> Iterator[socket.socket | None]:
    """Open a socket; the result is None if the kernel has no nftables."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        netlink = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    except OSError as error:
        if error.errno not in _WITHOUT_NFTABLES:
            raise
        yield None
        return
    with netlink:
        netlink.bind((0, 0))
        try:
            list(_dump(netlink, _GET_TABLE))
        except OSError as error:
            if error.errno not in _WITHOUT_NFTABLES:
                raise
            yield None
        else:
            yield netlink
