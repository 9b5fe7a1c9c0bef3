"""Let tasks wait for the answers to their requests for paths."""

from __future__ import annotations

import trio

from overlay.paths.paths import Paths
from overlay.paths.requested_path import RequestedPath

__all__ = ["PathAnswers"]


class PathAnswers:
    """Wakes the tasks that wait, because :class:`Paths` has no tasks of its own."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._news = trio.Event()

    def announce(self) -> None:
        """Wake the waiting tasks if a request was answered since the last call."""
        if self._paths.take_answered():
            self._news.set()
            self._news = trio.Event()

    async def wait(self, path: RequestedPath) -> None:
        """Return when the request for a path has an answer."""
        while not path.settled:
            await self._news.wait()
        await trio.lowlevel.checkpoint()
