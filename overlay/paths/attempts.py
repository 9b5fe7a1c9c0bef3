"""When a path request fails, and how long the node waits between two attempts.

The first few failures may be chance, so the caller hears only of a failure that is likely to last.
"""

from __future__ import annotations

from typing import Final

from overlay.errors import BackendError, ConfigurationError, OverlayError, PluginError

__all__ = ["is_hopeless", "wait_before_s"]

_MOST_ATTEMPTS: Final = 4
"""Attempts over different Mix-nodes. Each attempt with an unreachable hop takes up to 8 s, the time
after which the hop before it gives up ([apm] link_timeout_s)."""

_ATTEMPTS_WITHOUT_CHOICE: Final = 2
"""Attempts if all remaining paths contain a Mix-node that failed. One failure may be chance."""

_WAIT_S: Final = (0.01, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Wait before each further attempt, by the number of failures; the last value repeats."""

_FINAL: Final = (BackendError, ConfigurationError, PluginError)
"""Errors of this host, the configuration or a plug-in. They would occur with every circuit."""


def is_hopeless(error: OverlayError, failures: int, *, has_other: bool) -> bool:
    """Tell whether the node should report the failure now instead of trying again.

    Args:
        error: the error of the last attempt.
        failures: number of consecutive failed attempts, including the last one.
        has_other: whether another path exists that avoids all Mix-nodes that failed.
    """
    most = _MOST_ATTEMPTS if has_other else _ATTEMPTS_WITHOUT_CHOICE
    return failures >= most or isinstance(error, _FINAL)


def wait_before_s(failures: int) -> float:
    """Return the wait in seconds before the next attempt, after this number of failures."""
    return _WAIT_S[min(failures, len(_WAIT_S) - 1)]
