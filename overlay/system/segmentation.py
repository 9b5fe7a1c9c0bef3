"""Many UDP datagrams in one system call: which may share one, and how to tell them apart again.

::

    send:     d d d d d d' | e e | f      one UDP_SEGMENT call a run: same destination, same
              └─ one run ─┘               size, the last one may be shorter
    receive:  one buffer + segment size -> d d d d d d'

Linux cuts such a buffer up (GSO) or puts it together (GRO) as late or early as it can, so
the path through the kernel is paid once a run. See udp(7), UDP_SEGMENT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from overlay.addresses import Endpoint

__all__ = ["MAX_RUN_BYTES", "MAX_SEGMENTS", "Run", "runs_of", "split_segments"]

MAX_SEGMENTS: Final = 64
"""Linux's UDP_MAX_SEGMENTS (128 since 6.9; older ones take 64)."""

MAX_RUN_BYTES: Final = 65_000
"""Below the 65,507 bytes of a UDP datagram, with room for IP options."""


class Run(NamedTuple):
    """Consecutive datagrams to one endpoint, all of ``segment_bytes`` but perhaps the last."""

    endpoint: Endpoint
    datagrams: Sequence[bytes]
    segment_bytes: int


def runs_of(batch: Sequence[tuple[bytes, Endpoint]]) -> Iterator[Run]:
    """Cut a batch into runs, keeping its order."""
    datagrams: list[bytes] = []
    endpoint: Endpoint | None = None
    segment_bytes = total = 0
    closed = True
    for datagram, destination in batch:
        size = len(datagram)
        if (
            closed
            or destination != endpoint
            or not 0 < size <= segment_bytes
            or len(datagrams) == MAX_SEGMENTS
            or total + size > MAX_RUN_BYTES
        ):
            if endpoint is not None:
                yield Run(endpoint, datagrams, segment_bytes)
            datagrams, endpoint, segment_bytes, total = [], destination, size, 0
        datagrams.append(datagram)
        total += size
        closed = size < segment_bytes
    if endpoint is not None:
        yield Run(endpoint, datagrams, segment_bytes)


def split_segments(data: memoryview, segment_bytes: int) -> list[bytes]:
    """Undo what GRO put together; a segment size of 0 stands for a single datagram."""
    if not 0 < segment_bytes < len(data):
        return [bytes(data)]
    return [
        bytes(data[start : start + segment_bytes]) for start in range(0, len(data), segment_bytes)
    ]
