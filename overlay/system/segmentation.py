"""Group UDP datagrams that can share one system call, and split received aggregates.

::

    send:     d d d d d d' | e e | f      one UDP_SEGMENT call per run: same destination, same
              └─ one run ─┘               size, the last one may be shorter
    receive:  one buffer + segment size -> d d d d d d'

Linux splits such a buffer as late as possible (GSO) and aggregates as early as possible (GRO). So
the cost of the network stack arises once per run. See udp(7), UDP_SEGMENT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from overlay.addresses import Endpoint

__all__ = ["MAX_RUN_BYTES", "MAX_SEGMENTS", "Run", "runs_of", "split_segments"]

MAX_SEGMENTS: Final = 64
"""Linux's UDP_MAX_SEGMENTS (64; 128 since Linux 6.9)."""

MAX_RUN_BYTES: Final = 65_000
"""Less than the 65,507 bytes of the largest UDP datagram, with room for IP options."""


class Run(NamedTuple):
    """Consecutive datagrams to one endpoint of ``segment_bytes`` each; the last may be shorter."""

    endpoint: Endpoint
    datagrams: Sequence[bytes]
    segment_bytes: int


def runs_of(batch: Sequence[tuple[bytes, Endpoint]]) -> Iterator[Run]:
    """Split a batch into runs and keep its order."""
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
    """Return the datagrams of a GRO aggregate; a segment size of 0 means a single datagram."""
    if not 0 < segment_bytes < len(data):
        return [bytes(data)]
    return [
        bytes(data[start : start + segment_bytes]) for start in range(0, len(data), segment_bytes)
    ]
