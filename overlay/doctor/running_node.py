"""What a node that runs with the examined configuration says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from overlay.control.client import ControlClient
from overlay.control.model import StatusReport
from overlay.errors import OverlayError

__all__ = ["status_of"]

_ANSWER_S: Final = 1.5
"""How long a running node may take to answer; the whole examination takes less than 5 s."""


def status_of(path: Path) -> StatusReport | None:
    """Return the status of the node at a control socket, None if none answers."""
    if not path.is_socket():
        return None
    try:
        with ControlClient(path, timeout_s=_ANSWER_S) as client:
            return client.status()
    except OverlayError:  # none runs, or it is too busy
        return None
