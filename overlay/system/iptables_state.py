"""Read the content of legacy iptables' tables with system calls only.

Legacy iptables sends no notification of a change, so its tables must be read repeatedly. Starting
``iptables-legacy`` takes tens of milliseconds. getsockopt(2) returns a whole table in
microseconds::

    built-in chains: rules ... | ERROR "chain's name" | its rules ... | ERROR "next" | ...
                       └─ verdict: offset of the first rule of the chain that it jumps to

Format: Linux uapi ``linux/netfilter_ipv4/ip_tables.h``, ``linux/netfilter_ipv6/ip6_tables.h``
and ``linux/netfilter/x_tables.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["ChainContent", "TableContent", "comments", "find_chains", "read_table"]

_GET_INFO: Final = 64
_GET_ENTRIES: Final = 65
_NAME: Final = struct.Struct("32s")
_INFO: Final = struct.Struct("=32sI5I5III")  # name, hooks, entries, underflows, rules, size
_ENTRIES_OFFSET: Final = 40
"""Offset of the entries: after the name (32) and the size (4), aligned to 8."""

_MAX_BYTES: Final = 1 << 24
"""Limit of a table's size in bytes; 16 MiB are about a hundred thousand rules."""

_MOST_TRIES: Final = 50
"""Limit of attempts, because another program may change the table between two system calls."""

_TARGET: Final = struct.Struct("=H29sB")  # size, name, revision; a verdict or a name follows
_VERDICT: Final = struct.Struct("=i")
_MATCH: Final = struct.Struct("=H29sB")  # size, name, revision; what the match needs follows
_COMMENT: Final = b"comment"
_ERROR: Final = b"ERROR"
_CHAIN_NAME_BYTES: Final = 30


@dataclass(frozen=True, slots=True)
class _RuleLayout:
    """Offsets in the header of one rule, in bytes; ``changing`` to ``header`` are not compared."""

    family: int
    level: int
    target_offset: int
    changing: int
    """Offset of two lengths, of internal data and of counters, which end at ``header``."""
    header: int


_LAYOUTS: Final = {
    4: _RuleLayout(socket.AF_INET, socket.IPPROTO_IP, target_offset=88, changing=90, header=112),
    6: _RuleLayout(
        socket.AF_INET6, socket.IPPROTO_IPV6, target_offset=140, changing=142, header=168
    ),
}


@dataclass(frozen=True, slots=True)
class TableContent:
    """One kernel table: offsets of its built-in chains by hook number, and its rules."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    entries: bytes


@dataclass(frozen=True, slots=True)
class ChainContent:
    """One chain: its rules without counters, and the numbers of the hooks that jump to it."""

    name: str
    hooks: tuple[int, ...]
    rules: tuple[bytes, ...]


def read_table(version: int, table: str) -> TableContent | None:
    """Return a kernel table ("mangle") of IP version 4 or 6, or None if the kernel has none.

    Reading a table makes the kernel load it.

    Raises:
        OSError: CAP_NET_ADMIN is missing, or the table is too large.
    """
    layout, name = _LAYOUTS[version], _NAME.pack(table.encode())
    with socket.socket(layout.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                info = _ask(asking, layout, _GET_INFO, name + bytes(_INFO.size - _NAME.size))
                numbers = _INFO.unpack(info)
                size = _bounded(numbers[-1])
                request = name + struct.pack("=I4x", size) + bytes(size)
                answer = _ask(asking, layout, _GET_ENTRIES, request)
            except BlockingIOError:  # the table changed between the two calls
                if not tries_left:
                    raise
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOPROTOOPT):
                    return None
                raise
            return TableContent(numbers[2:7], numbers[7:12], answer[_ENTRIES_OFFSET:])
    return None


def find_chains(
    content: TableContent, version: int, names: Collection[str]
) -> tuple[ChainContent, ...]:
    """Return the chains with these names that exist, sorted by name."""
    layout = _LAYOUTS[version]
    rules: dict[str, list[bytes]] = {}
    starts: dict[int, str] = {}
    jumps: list[tuple[int, int]] = []
    inside: str | None = None
    for at, entry, target in _entries(content.entries, layout):
        chain = _chain_name(entry, target)
        verdict = _jump(entry, target)
        if chain is not None:
            inside = chain if chain in names else None
            if inside is not None:
                rules[inside] = []
                starts[at + len(entry)] = inside
        elif inside is not None:
            rules[inside].append(entry[: layout.changing] + entry[layout.header :])
        elif verdict is not None:
            jumps.append((at, verdict))
    hooks: dict[str, set[int]] = {name: set() for name in rules}
    for at, verdict in jumps:
        if verdict in starts:
            hooks[starts[verdict]] |= {
                hook
                for hook, (begin, end) in enumerate(zip(content.begins, content.ends, strict=True))
                if begin <= at <= end and begin != _NO_HOOK
            }
    return tuple(
        ChainContent(name, tuple(sorted(hooks[name])), tuple(rules[name])) for name in sorted(rules)
    )


def comments(chain: ChainContent, version: int) -> tuple[str, ...]:
    """Return the comments (``-m comment``) of a chain's rules, in order."""
    begin = _LAYOUTS[version].changing
    found = (_comment(rule, begin) for rule in chain.rules)
    return tuple(comment for comment in found if comment is not None)


def _comment(rule: bytes, at: int) -> str | None:
    """Return the comment among a rule's matches, which begin at ``at``."""
    while at + _MATCH.size <= len(rule):
        size, name, _ = _MATCH.unpack_from(rule, at)
        if size < _MATCH.size:
            return None
        if name.partition(b"\0")[0] == _COMMENT:
            text = rule[at + _MATCH.size : at + size].partition(b"\0")[0]
            return text.decode(errors="replace")
        at += size
    return None


_NO_HOOK: Final = 0xFFFFFFFF


def _entries(entries: bytes, layout: _RuleLayout) -> Iterator[tuple[int, bytes, int]]:
    """Yield (offset, rule, offset of its target in the rule); stop at malformed data."""
    at = 0
    while at + layout.header <= len(entries):
        target, length = struct.unpack_from("=HH", entries, at + layout.target_offset)
        if length < layout.header or at + length > len(entries):
            return
        if not layout.header <= target <= length - _TARGET.size:
            return
        yield at, entries[at : at + length], target
        at += length


def _chain_name(entry: bytes, target: int) -> str | None:
    """Return the name of the chain that an entry begins, or None if it is a rule."""
    if _target_name(entry, target) != _ERROR:
        return None
    name = entry[target + _TARGET.size : target + _TARGET.size + _CHAIN_NAME_BYTES]
    return name.partition(b"\0")[0].decode(errors="replace")


def _jump(entry: bytes, target: int) -> int | None:
    """Return the offset that a rule jumps to, or None if it has another target."""
    if _target_name(entry, target) or len(entry) < target + _TARGET.size + _VERDICT.size:
        return None
    (verdict,) = _VERDICT.unpack_from(entry, target + _TARGET.size)
    return int(verdict) if verdict >= 0 else None


def _target_name(entry: bytes, target: int) -> bytes:
    name: bytes = _TARGET.unpack_from(entry, target)[1]
    return name.partition(b"\0")[0]


def _bounded(size: int) -> int:
    if size > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return size


def _ask(asking: socket.socket, layout: _RuleLayout, option: int, request: bytes) -> bytes:
    """Call getsockopt(2) with a request in its buffer, which Python's own function cannot pass."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(asking.fileno(), layout.level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[: length.value]
