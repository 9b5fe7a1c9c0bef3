"""Check limits of kernel tables and buffers, because a full one drops packets without an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from overlay.doctor.findings import Finding, Outcome, Purpose, Setup
from overlay.system.kernel_settings import read_setting

__all__ = ["kernel_tables"]

Read = Callable[[str], str | None]

_FULL: Final = 0.9
_TRACKED: Final = ("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max")


@dataclass(frozen=True, slots=True)
class _Least:
    """A limit that should be at least ``least``; ``why`` says what happens below that."""

    name: str
    subject: str
    least: int
    why: str


_LEAST: Final = (
    _Least("net/core/rmem_max", "socket buffers", 212_992, "bursts and kernel events are lost"),
    _Least(
        "net/ipv6/route/max_size", "IPv6 route cache", 4096, "packets of many circuits are lost"
    ),
)
"""Defaults of Linux. A lower value was set by an administrator."""


def kernel_tables(_setup: Setup, read: Read = read_setting) -> list[Finding]:
    """Check the connection tracking table, which an exit needs, and limits below their defaults."""
    return [*_tracking(read), *(finding for each in _LEAST for finding in _limit(each, read))]


def _tracking(read: Read) -> list[Finding]:
    count, limit = (_number(read(name)) for name in _TRACKED)
    if count is None or not limit:
        return []  # the module is loaded by the first rule that needs it
    needed_for = (Purpose.EXIT,)
    if count < limit * _FULL:
        said = f"{count} of {limit} entries are used"
        return [Finding("connection tracking", Outcome.WORKS, said, needed_for)]
    said = (
        f"{count} of {limit} entries are used, and a full table drops new connections; enlarge "
        f"it with: sysctl -w net.netfilter.nf_conntrack_max={limit * 4}"
    )
    return [Finding("connection tracking", Outcome.LACKS, said, needed_for)]


def _limit(limit: _Least, read: Read) -> list[Finding]:
    value = _number(read(limit.name))
    if value is None:
        return []
    needed_for = (Purpose.ADVICE,)
    if value >= limit.least:
        return [Finding(limit.subject, Outcome.WORKS, f"up to {value}", needed_for)]
    command = f"sysctl -w {limit.name.replace('/', '.')}={limit.least}"
    said = f"at most {value}, so {limit.why}; allow more with: {command}"
    return [Finding(limit.subject, Outcome.LACKS, said, needed_for)]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
