"""How often a path is tried while its asker waits, and how long the node waits in between."""

from __future__ import annotations

from typing import Final

from overlay.errors import BackendError, ConfigurationError, OverlayError, PluginError

__all__ = ["is_hopeless", "wait_before_s"]

_MOST_ATTEMPTS: Final = 4
"""Of different paths; one that is down takes up to 8 s ([apm] link_timeout_s of the hop before)."""

_ATTEMPTS_WITHOUT_CHOICE: Final = 2
"""If every path that is left goes through a Mix-node that failed: one failure may be chance."""

_WAIT_S: Final = (0.01, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before each further attempt; the last one repeats."""

_FINAL: Final = (BackendError, ConfigurationError, PluginError)
"""What this host, its user or a plug-in causes fails with every circuit."""


def is_hopeless(error: OverlayError, failures: int, *, has_other: bool) -> bool:
    """Tell whether the asker should hear of the failure now.

    Args:
        error: of the last attempt.
        failures: attempts in a row that failed, this one included.
        has_other: whether a path is left through none of the Mix-nodes that failed.
    """
    most = _MOST_ATTEMPTS if has_other else _ATTEMPTS_WITHOUT_CHOICE
    return failures >= most or isinstance(error, _FINAL)


def wait_before_s(failures: int) -> float:
    """Return how long to wait before the next attempt, in seconds."""
    return _WAIT_S[min(failures, len(_WAIT_S) - 1)]
