"""Which prefixes the guard holds for the paths of a node, and which are free when a path ends.

Two paths may need the same prefix: one as its destination, another because it blocks the other
IP version (:mod:`overlay.paths.ip_versions`). A prefix is released when the last of them ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from overlay.addresses import IpNetwork
from overlay.paths.ip_versions import BLOCKED_FAMILY, blocked_versions
from overlay.paths.path_services import KillSwitchService
from overlay.paths.requested_path import PathTerms

__all__ = ["Protection", "prefixes_of"]


class Protection:
    """Owner of the decision what the guard protects; the guard itself belongs to its shell."""

    def __init__(self, guard: KillSwitchService) -> None:
        self._guard = guard
        self._left_blocked: set[int] = set()

    @property
    def left_blocked(self) -> frozenset[int]:
        """IP versions that an earlier process had blocked, though no known path needs it."""
        return frozenset(self._left_blocked)

    def keep_blocked(self, versions: Iterable[int]) -> None:
        """Keep IP versions blocked until :meth:`release_left`."""
        self._left_blocked.update(versions)

    def protect(self, wishes: Iterable[PathTerms]) -> None:
        """Guard all prefixes of some paths, all at once.

        Raises:
            BackendError: the host refused; some may be guarded.
        """
        prefixes = prefixes_of(wishes, self._left_blocked)
        if prefixes:
            self._guard.protect(*prefixes)

    def together(self) -> AbstractContextManager[None]:
        """Change the host's filters once for all that ends inside."""
        return self._guard.together()

    def release_all(self, wishes: Iterable[PathTerms]) -> None:
        """End the guard of everything that all paths need, at once.

        Raises:
            BackendError: the host refused; what was not released stays guarded.
        """
        self._release(list(wishes), (), set())

    def release(self, wish: PathTerms, others: Iterable[PathTerms]) -> None:
        """End the guard of what this path alone needs.

        Raises:
            BackendError: the host refused; what was not released stays guarded.
        """
        self._release([wish], others, set())

    def release_left(self, others: Iterable[PathTerms]) -> None:
        """Unblock the IP versions that no path needs.

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
        # The reverse order: the first prefix of a blocked version tells that it is blocked.
        free = [p for p in reversed(prefixes_of(ended, versions)) if p not in needed]
        if free:
            self._guard.release(*free)


def prefixes_of(wishes: Iterable[PathTerms], versions: Iterable[int] = ()) -> list[IpNetwork]:
    """Return every prefix that some paths need guarded, each once.

    Args:
        wishes: the paths.
        versions: IP versions that are blocked besides those of the paths.
    """
    wishes = list(wishes)
    blocked = blocked_versions((wish.destination, wish.both_versions) for wish in wishes)
    found = [wish.destination for wish in wishes]
    for version in sorted(blocked | set(versions)):
        found += BLOCKED_FAMILY[version]
    return list(dict.fromkeys(found))
