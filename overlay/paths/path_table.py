"""The requested paths of a node, by number and by destination.

The table knows which paths exist; :mod:`overlay.paths.paths` changes them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from overlay.addresses import InnerAddress, IpNetwork
from overlay.errors import ConfigurationError
from overlay.paths.prepared_request import PreparedRequest
from overlay.paths.requested_path import PathState, PathTerms, RequestedPath
from overlay.selection.selector import MixPath

__all__ = ["MAX_PATHS", "PathTable"]

MAX_PATHS = 256
"""Most paths of a node. Each one needs a route, an address and a circuit."""


class PathTable:
    """The requested paths, oldest first; bounded by ``MAX_PATHS``.

    ``revision`` grows whenever :meth:`all_terms` changes.
    """

    def __init__(self) -> None:
        self._paths: dict[int, RequestedPath] = {}
        self._last_number = 0
        self.revision = 0

    def all(self) -> list[RequestedPath]:
        """Return the requested paths, oldest first."""
        return list(self._paths.values())

    def covers(self, packed: bytes) -> bool:
        """Tell whether a packed address lies in the destination of a path."""
        address = ipaddress.ip_address(packed)
        return any(
            address.version == path.destination.version and address in path.destination
            for path in self._paths.values()
        )

    def all_terms(self) -> list[PathTerms]:
        """Return the terms of all paths, oldest first."""
        return [path.terms for path in self._paths.values()]

    def held(self) -> list[InnerAddress]:
        """Return the inner addresses of all paths."""
        return [address for path in self._paths.values() for address in path.inner_addresses]

    def get(self, which: int | IpNetwork) -> RequestedPath:
        """Return one path, by its number or its destination.

        Raises:
            ConfigurationError: there is no such path.
        """
        path = self._paths.get(which) if isinstance(which, int) else self.of(which)
        if path is None:
            known = ", ".join(str(number) for number in self._paths) or "none"
            named = f"path {which}" if isinstance(which, int) else f"path to {which}"
            raise ConfigurationError(f"there is no {named}; open paths: {known}.")
        return path

    def of(self, destination: IpNetwork) -> RequestedPath | None:
        """Return the path to exactly this destination, or None."""
        return next((p for p in self._paths.values() if p.destination == destination), None)

    def _free_path(self, destination: IpNetwork) -> RequestedPath | None:
        """Return the path that a request for ``destination`` takes over; None for a new path.

        Raises:
            ConfigurationError: another request of this process has a path to it, or the path is
                being closed.
        """
        path = self.of(destination)
        if path is not None and (path.held or path.state is PathState.CLOSING):
            raise ConfigurationError(
                f"path {path.number} serves this destination already; "
                f"close it first: overlay path close {path.number}."
            )
        return path

    def _check_room(self, new: int) -> None:
        """Check that ``new`` more paths fit.

        Raises:
            ConfigurationError: there would be more than ``MAX_PATHS``.
        """
        if len(self._paths) + new > MAX_PATHS:
            raise ConfigurationError(
                f"this node has {len(self._paths)} paths, and it may have {MAX_PATHS}; close some, "
                "or name one prefix for several destinations."
            )

    def _add(self, terms: PathTerms, now: float) -> RequestedPath:
        self._last_number += 1
        path = self._paths[self._last_number] = RequestedPath(self._last_number, terms, now)
        path.companions = [path]
        self.revision += 1
        return path

    def _prepare(
        self,
        all_terms: Sequence[PathTerms],
        now: float,
        select: Callable[[Sequence[RequestedPath], float], Sequence[MixPath] | None],
        patient_until: float,
    ) -> PreparedRequest:
        """Choose Mix-nodes for new paths and add the paths, all or none; see open_paths()."""
        free = {terms.destination: self._free_path(terms.destination) for terms in all_terms}
        new = [terms for terms in all_terms if free[terms.destination] is None]
        self._check_room(len(new))
        trials = [RequestedPath(0, terms, now, patient_until=patient_until) for terms in new]
        mix_paths = select(trials, now)
        taken = [path for path in free.values() if path is not None]
        for path in taken:
            path.held = True  # so that no other request takes it over
        made = [self._add(terms, now) for terms in new]
        for path in made:
            path.companions, path.patient_until = made, patient_until
        return PreparedRequest(all_terms, taken, made, mix_paths)
