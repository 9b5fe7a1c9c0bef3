"""The ``explicit`` strategy: the path is exactly the Mix-nodes that the request names."""

from __future__ import annotations

from random import Random

from overlay.errors import NoSuitablePath
from overlay.selection.constraints import check_hops, named_hops
from overlay.selection.selector import MixPath, PathRequest, TopologyView

__all__ = ["ExplicitSelector"]


class ExplicitSelector:
    """Take ``via`` as the whole path, in order (implements ``PathSelector``).

    Who names fewer nodes than hops does not get a shorter path without noticing, but an error.
    """

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:  # noqa: ARG002 - nothing is drawn
        """Return the named hops.

        Raises:
            NoSuitablePath: they are not as many as the hops, or one of them cannot serve; the
                message names each such hop by its position.
            ValueError: ``hops`` does not lie within 1 and ``MAX_HOPS``.
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
