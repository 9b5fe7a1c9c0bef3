"""Request a record from the nodes that a lookup found, three at a time, until three returned it.

``overlay/dht/inspection.py`` does the same, and so does a crawl for a node without an answer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from overlay.dht.crawl import HOLDERS_ASKED
from sims.vectorised.timing import CallTiming
from sims.vectorised.xor import Flags

__all__ = ["fetch"]

Floats = npt.NDArray[np.float64]


def fetch(asked: Flags, has_it: Flags, timing: CallTiming) -> tuple[Flags, Floats]:
    """Return which records were found, and the time in seconds.

    Args:
        asked: which entries of a lookup's result are asked, nearest first.
        has_it: which of them have the record.
        timing: draws round trips. No cookie is fetched, because the lookup has just called each.
    """
    rows = np.arange(len(asked))
    free_at = np.zeros((len(asked), HOLDERS_ASKED))
    content = np.zeros((len(asked), HOLDERS_ASKED), np.bool_)
    for place in range(asked.shape[1]):
        lane = np.argmin(np.where(content, np.inf, free_at), axis=1)
        asks = asked[:, place] & ~content.all(axis=1)
        took = np.where(asks, timing.round_trips(len(rows)), 0.0)
        free_at[rows, lane] += took
        content[rows, lane] |= asks & has_it[:, place]
    return np.asarray(content.any(axis=1)), np.asarray(free_at.max(axis=1))
