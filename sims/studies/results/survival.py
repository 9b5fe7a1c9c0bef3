"""Estimate lengths of which the end of a run cuts some off (Kaplan and Meier, 1958).

A session that continues at the end of the run lasts longer than its age at that time. If such
sessions were left out, the estimate would be too short, because most of them are long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["survival_quantiles"]

Floats = npt.NDArray[np.float64]


def survival_quantiles(ended: Floats, cut: Floats, shares: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles of the length; NaN if the run was too short to determine one.

    Args:
        ended: lengths of sessions that ended within the run.
        cut: ages of the other sessions at the end of the run.
        shares: the quantiles, from 0 to 1, in ascending order.
    """
    lengths, deaths = np.unique(ended, return_counts=True)
    if not len(lengths):
        return (float("nan"),) * len(shares)
    # Sessions that last at least this long. One that is cut off at this age counts as well.
    at_risk = np.array([(ended >= each).sum() + (cut >= each).sum() for each in lengths])
    gone = 1 - np.cumprod(1 - deaths / at_risk)
    places = np.searchsorted(gone, np.asarray(shares) - 1e-12)
    known = places < len(lengths)
    return tuple(np.where(known, lengths[np.minimum(places, len(lengths) - 1)], np.nan).tolist())
