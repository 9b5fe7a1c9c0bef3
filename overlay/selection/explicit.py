"""The ``explicit`` strategy: the path consists of the Mix-nodes that the request names."""

from __future__ import annotations

from random import Random

from overlay.errors import NoSuitablePath
from overlay.selection.constraints import check_hops, named_hops
from overlay.selection.selector import MixPath, PathRequest, TopologyView

__all__ = ["ExplicitSelector"]


class ExplicitSelector:
    """Use ``via`` as the whole path, in order (implements ``PathSelector``).

    If the request names fewer nodes than hops, the result is an error and not a shorter path.
    """

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:  # noqa: ARG002 - nothing is drawn
        """Return the named hops.

        Raises:
            NoSuitablePath: the number of named nodes differs from the hops, or a node cannot be
                a hop; the message names its position.
            ValueError: ``hops`` is not between 1 and ``MAX_HOPS``.
        """
        check_hops(request)
        if len(request.via) != request.hops:
            raise NoSuitablePath(
                f"the explicit strategy needs every hop named, first hop first "
                f"(hops asked for: {request.hops}, named: {len(request.via)}).",
                known=len(table),
                removed=(),
            )
        return MixPath(named_hops(request, table))
