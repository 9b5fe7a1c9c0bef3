"""Which prefixes the kill switch blocks for the paths of a node, and which it releases.

Two paths may need the same prefix: one as its destination, another because it blocks the other
IP version (:mod:`overlay.paths.ip_versions`). A prefix is released when the last of them ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from overlay.addresses import InnerAddress, IpNetwork
from overlay.errors import BackendError
from overlay.paths.ip_versions import BLOCKED_FAMILY, blocked_versions
from overlay.paths.path_services import KillSwitchService
from overlay.paths.requested_path import PathTerms

__all__ = ["Protection", "prefixes_of"]

Carried = tuple[IpNetwork, InnerAddress]


class Protection:
    """Decides what the kill switch protects; the kill switch itself belongs to its shell.

    ``refusals`` counts changes that the host refused and that are tried again, or not needed.
    """

    def __init__(self, kill_switch: KillSwitchService) -> None:
        self._kill_switch = kill_switch
        self._left_blocked: set[int] = set()
        self.refusals = 0
        self._carried_ahead: set[Carried] = set()

    @property
    def left_blocked(self) -> frozenset[int]:
        """IP versions that an earlier process had blocked, although no known path needs that."""
        return frozenset(self._left_blocked)

    def keep_blocked(self, versions: Iterable[int]) -> None:
        """Keep IP versions blocked until :meth:`release_left`."""
        self._left_blocked.update(versions)

    def protect(self, all_terms: Iterable[PathTerms]) -> None:
        """Protect all prefixes of some paths with one change.

        Raises:
            BackendError: the host refused; some prefixes may be protected.
        """
        prefixes = prefixes_of(all_terms, self._left_blocked)
        if prefixes:
            self._kill_switch.protect(*prefixes)

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Carry packets to a destination, unless :meth:`carried_ahead` has arranged that.

        Raises:
            BackendError: the host refused; the destination stays blocked.
        """
        if (destination, inner_address) in self._carried_ahead:
            self._carried_ahead.discard((destination, inner_address))
        else:
            self._kill_switch.carry((destination, inner_address))

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop carrying packets to a destination, which stays blocked; count a refusal."""
        try:
            self._kill_switch.uncarry(destination, inner_address)
        except BackendError:  # the device drops these packets, because no circuit takes them
            self.refusals += 1

    @contextlib.contextmanager
    def carried_ahead(self, opened: list[Carried]) -> Iterator[None]:
        """Carry several destinations by one change, before :meth:`carry` is called for each.

        If the host refuses the change, each destination is tried separately. What :meth:`carry`
        was not called for is not carried at the end.
        """
        if len(opened) > 1:
            with contextlib.suppress(BackendError):
                self._kill_switch.carry(*opened)
                self._carried_ahead.update(opened)
        try:
            yield
        finally:
            unused, self._carried_ahead = self._carried_ahead, set()
            for destination, inner_address in unused:
                with contextlib.suppress(BackendError):  # no circuit takes these packets
                    self._kill_switch.uncarry(destination, inner_address)

    def together(self) -> AbstractContextManager[None]:
        """Combine all changes inside into one change of the host's filters."""
        return self._kill_switch.together()

    def release_all(self, all_terms: Iterable[PathTerms]) -> None:
        """Release everything with one change.

        Raises:
            BackendError: the host refused; some prefixes stay protected.
        """
        self._release(list(all_terms), (), set())

    def release(self, terms: PathTerms, others: Iterable[PathTerms]) -> None:
        """Release the prefixes that only this path needs.

        Raises:
            BackendError: the host refused; some prefixes stay protected.
        """
        self._release([terms], others, set())

    def release_left(self, others: Iterable[PathTerms]) -> None:
        """Release the IP versions that no path needs.

        Raises:
            BackendError: the host refused; they stay blocked, and this can be repeated.
        """
        left = set(self._left_blocked)
        self._left_blocked.clear()
        try:
            self._release([], others, left)
        except BaseException:
            self._left_blocked = left
            raise

    def _release(
        self, ended: list[PathTerms], others: Iterable[PathTerms], versions: set[int]
    ) -> None:
        needed = set(prefixes_of(others, self._left_blocked))
        # In reverse order, because the first prefix of a blocked version marks it as blocked.
        free = [p for p in reversed(prefixes_of(ended, versions)) if p not in needed]
        if free:
            self._kill_switch.release(*free)


def prefixes_of(all_terms: Iterable[PathTerms], versions: Iterable[int] = ()) -> list[IpNetwork]:
    """Return every prefix that must be protected for some paths, each once.

    Args:
        all_terms: the terms of the paths.
        versions: IP versions that are blocked besides those of the paths.
    """
    all_terms = list(all_terms)
    blocked = blocked_versions((terms.destination, terms.both_versions) for terms in all_terms)
    found = [terms.destination for terms in all_terms]
    for version in sorted(blocked | set(versions)):
        found += BLOCKED_FAMILY[version]
    return list(dict.fromkeys(found))
