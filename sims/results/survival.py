"""Lengths of which some are cut off by the end of a run: the estimate of Kaplan and Meier (1958).

A session that goes on at the end of the run is known to last longer than its age. Leaving it out
makes sessions look short, because the long ones are the ones that are cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["survival_quantiles"]

Floats = npt.NDArray[np.float64]


def survival_quantiles(ended: Floats, cut: Floats, shares: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles of the length, NaN where the run was too short to tell.

    Args:
        ended: lengths that were seen whole.
        cut: ages at which others were cut off.
        shares: of all lengths, 0 to 1, in ascending order.
    """
    lengths, deaths = np.unique(ended, return_counts=True)
    if not len(lengths):
        return (float("nan"),) * len(shares)
    # Those that last at least that long; one that is cut at the same age is still there.
    at_risk = np.array([(ended >= each).sum() + (cut >= each).sum() for each in lengths])
    gone = 1 - np.cumprod(1 - deaths / at_risk)
    places = np.searchsorted(gone, np.asarray(shares) - 1e-12)
    known = places < len(lengths)
    return tuple(np.where(known, lengths[np.minimum(places, len(lengths) - 1)], np.nan).tolist())
