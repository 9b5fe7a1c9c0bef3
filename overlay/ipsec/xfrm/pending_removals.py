"""What may still be in the kernel though it should not: removed as soon as the kernel lets us.

::

    a batch whose verdicts were lost ──┐
    a removal that failed            ──┴──> held ──retry: before each change──> gone

The socket may fail when part of a batch is done (an answer did not fit into its buffer), and a
removal may be refused. Neither ends a node: what is meant is known, and said again later. An SA
is asked for before it is deleted, for another program's may have the same identity; a policy of
another program cannot (its selector lacks our sign).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

from overlay.errors import BackendError
from overlay.ipsec.xfrm.changes import ABSENT
from overlay.ipsec.xfrm.entries import is_ours
from overlay.ipsec.xfrm.messages import XFRM_MSG_DELSA, XFRM_MSG_GETSA
from overlay.ipsec.xfrm.netlink import Request, XfrmSocket

__all__ = ["PendingRemovals"]

_RETRIED_AT_ONCE: Final = 64
"""Bounds what a change has to do for earlier ones."""


class PendingRemovals:
    """Owner of removals that are still to be made; bounded by what was installed."""

    def __init__(self, netlink: XfrmSocket) -> None:
        self._netlink = netlink
        self._held: dict[tuple[int, bytes], Request] = {}

    def __len__(self) -> int:
        return len(self._held)

    def remove(self, requests: Sequence[Request]) -> None:
        """Remove entries that were certainly installed by us; what fails is held."""
        try:
            verdicts = self._netlink.send(requests)
        except BackendError:
            self._hold(requests)
            return
        self._hold(
            request
            for request, verdict in zip(requests, verdicts, strict=True)
            if verdict is not None and verdict.number not in ABSENT
        )

    def remove_what_is_ours(self, requests: Sequence[Request]) -> None:
        """Remove entries of which it is not known whether they are there, and whose."""
        self._hold(requests)
        self.retry()

    def retry(self) -> None:
        """Try again to remove what is held, the eldest first; what fails again is held."""
        with contextlib.suppress(BackendError):
            for key, request in list(self._held.items())[:_RETRIED_AT_ONCE]:
                if not self._is_there(request) or self._goes(request):
                    del self._held[key]
                else:  # the others have their turn before it
                    self._held[key] = self._held.pop(key)

    def forget(self) -> None:
        """Hold nothing any more, for everything of ours has been removed."""
        self._held.clear()

    def _hold(self, requests: Iterable[Request]) -> None:
        self._held.update(((each.kind, each.body), each) for each in requests)

    def _is_there(self, request: Request) -> bool:
        """Tell whether it may be there and ours."""
        if request.kind != XFRM_MSG_DELSA:
            return True
        found, refusal = self._netlink.get(Request(XFRM_MSG_GETSA, request.body))
        return is_ours(found) if refusal is None else refusal.number not in ABSENT

    def _goes(self, request: Request) -> bool:
        verdict = self._netlink.send([request])[0]
        return verdict is None or verdict.number in ABSENT
