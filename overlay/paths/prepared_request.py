"""One of several requests for paths that are served together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from overlay.errors import BackendError
from overlay.paths.requested_path import PathTerms, RequestedPath
from overlay.selection.selector import MixPath

__all__ = ["PreparedRequest", "outcome_of", "protected_together"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request whose destinations may not be blocked yet.

    Attributes:
        all_terms: the terms of its paths, which have different destinations.
        taken: existing paths that it takes over.
        made: its new paths.
        mix_paths: the Mix-nodes of each new path, in the order of ``made``. None if the request
            waits, because the topology table does not allow all of them yet.
    """

    all_terms: Sequence[PathTerms]
    taken: list[RequestedPath]
    made: list[RequestedPath]
    mix_paths: Sequence[MixPath] | None


def outcome_of(step: Callable[[T, float], R], given: T, now: float) -> R | Exception:
    """Return the result of a step of one request, or its error, so that the others continue."""
    try:
        return step(given, now)
    except Exception as error:
        return error


def protected_together(
    requests: Iterable[PreparedRequest | Exception],
    protect: Callable[[Iterable[PathTerms]], None],
) -> bool:
    """Block the destinations of several requests by one change; return whether all are blocked.

    The result is False for a single request, and if the host refused the change. Each request is
    then blocked separately, so that only those fail that the host refuses.
    """
    prepared = [each for each in requests if isinstance(each, PreparedRequest)]
    if len(prepared) < 2:
        return False
    with contextlib.suppress(BackendError):
        protect([terms for each in prepared for terms in each.all_terms])
        return True
    return False
