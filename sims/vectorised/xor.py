"""XOR geometry on sorted arrays of 64-bit ids.

A Kademlia id has 160 bits. The first 64 bits distinguish a million nodes, because two of them
share these bits with a probability below 10**-7. So NumPy's ``uint64`` is sufficient. All arrays
of ids here are sorted, so the ids with a common prefix are one range of positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "ID_BITS",
    "Flags",
    "Ids",
    "Positions",
    "closest",
    "common_prefix",
    "merged",
    "smallest_subtree",
    "subtree",
]

Ids = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

ID_BITS = 64


def common_prefix(one: Ids, other: Ids) -> Positions:
    """Return the number of leading bits that two ids share; 64 if they are equal."""
    difference = one ^ other
    # The exponent of frexp is exact only below 2**53, so each half is measured separately.
    high = (difference >> np.uint64(32)).astype(np.float64)
    low = (difference & np.uint64(0xFFFFFFFF)).astype(np.float64)
    exponent = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1])
    return ID_BITS - exponent.astype(np.int64)


def subtree(ids: Ids, prefix_of: Ids, depth: Positions) -> tuple[Positions, Positions]:
    """Return the range [low, high) of the sorted ``ids`` that share ``depth`` bits with each id."""
    low_id, high_id = _bounds(prefix_of, depth)
    low = np.searchsorted(ids, low_id, side="left")
    high = np.searchsorted(ids, high_id, side="right")
    return low.astype(np.int64), high.astype(np.int64)


def merged(one: Ids, other: Ids) -> Ids:
    """Return the sorted union of two sorted arrays of ids."""
    both = np.concatenate([one, other])
    both.sort(kind="stable")  # a stable sort merges the two sorted runs in linear time
    first = np.concatenate([both[:1] == both[:1], both[1:] != both[:-1]])
    once: Ids = both[first]
    return once


def closest(ids: Ids, targets: Ids, count: int) -> Ids:
    """Return the ``count`` ids closest to each target, closest first; shape (targets, count).

    Raises:
        ValueError: there are fewer ids than that.
    """
    if len(ids) < count:
        raise ValueError("there are fewer ids than are asked for")
    depth = smallest_subtree(ids, targets, count)
    low, high = subtree(ids, targets, depth)
    width = int((high - low).max())
    positions = low[:, None] + np.arange(width)
    outside = positions >= high[:, None]
    found = ids[np.minimum(positions, len(ids) - 1)]
    distance = found ^ targets[:, None]
    distance[outside] = np.iinfo(np.uint64).max
    order = np.argsort(distance, axis=1, kind="stable")[:, :count]
    nearest: Ids = np.take_along_axis(found, order, axis=1)
    return nearest


def smallest_subtree(ids: Ids, targets: Ids, count: int) -> Positions:
    """Return the greatest depth at which each target's subtree holds ``count`` ids."""
    low, high = np.zeros(len(targets), np.int64), np.full(len(targets), ID_BITS, np.int64)
    while np.any(low < high):
        middle = (low + high + 1) // 2
        start, end = subtree(ids, targets, middle)
        enough = end - start >= count
        low = np.where(enough, middle, low)
        high = np.where(enough, high, middle - 1)
    return low


def _bounds(prefix_of: Ids, depth: Positions) -> tuple[Ids, Ids]:
    free = (ID_BITS - depth).astype(np.uint64)
    # A shift by 64 bits is undefined, so the mask of depth 0 needs two steps.
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    mask = np.where(free >= 64, ones, (np.uint64(1) << np.minimum(free, 63)) - np.uint64(1))
    mask = mask.astype(np.uint64)
    return prefix_of & ~mask, prefix_of | mask
