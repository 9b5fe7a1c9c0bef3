"""Retry removals of entries that may still be in the kernel.

::

    a batch whose verdicts were lost ──┐
    a removal that failed            ──┴──> held ──retry: before each change──> gone

The socket may fail after the kernel has processed part of a batch, for example if an answer does
not fit into the buffer. The kernel may also refuse a removal. The node goes on and retries later.
It reads an SA before it deletes it, because an SA of another program may have the same identity. A
policy of another program cannot, because its selector has another ``user``.
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
"""Limit of retries for each change, which bounds its delay."""


class PendingRemovals:
    """Owner of removals that are not done yet; there are at most as many as installed entries."""

    def __init__(self, netlink: XfrmSocket) -> None:
        self._netlink = netlink
        self._held: dict[tuple[int, bytes], Request] = {}

    def __len__(self) -> int:
        return len(self._held)

    def remove(self, requests: Sequence[Request]) -> None:
        """Remove entries that this node has installed; those that fail are held."""
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
        """Remove entries if they exist and belong to this node, which is not known."""
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
