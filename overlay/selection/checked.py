"""Check the result of a path selection strategy against the request.

Strategies are plug-ins. A path with too few hops, or through this node itself, would weaken the
user's anonymity without notice. So such a path is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.descriptor import MixDescriptor, Role
from overlay.errors import OverlayError
from overlay.plugin_failures import broken_contract, plugin_failure
from overlay.plurals import counted
from overlay.selection.selector import MixPath, PathRequest, PathSelector, TopologyView

__all__ = ["CheckedSelector"]

_GROUP: Final = "overlay.selection"


class CheckedSelector:
    """A ``PathSelector`` that checks the results of a plug-in."""

    def __init__(self, name: str, build: Callable[[], PathSelector]) -> None:
        """Store ``build``, which creates the plug-in at the first call of :meth:`select`."""
        self._name = name
        self._build = build
        self._selector: PathSelector | None = None

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:
        """Return the path of the plug-in if it fits the request.

        Raises:
            NoSuitablePath: the plug-in found none.
            PluginError: the plug-in failed, or its path does not fit the request.
        """
        try:
            if self._selector is None:
                self._selector = self._build()
            path = self._selector.select(request, table, rng)
        except OverlayError:
            raise
        except Exception as error:
            raise plugin_failure(_GROUP, self._name, error) from error
        fault = _fault(path, request, table)
        if fault is not None:
            raise broken_contract(_GROUP, self._name, fault)
        return path


def _fault(path: object, request: PathRequest, table: TopologyView) -> str | None:
    """Return what is wrong with a path, as text that follows the name of the plug-in."""
    if not isinstance(path, MixPath) or not isinstance(path.hops, tuple):
        return f"it returned {type(path).__name__} and no MixPath with a tuple of hops"
    if not all(isinstance(hop, MixDescriptor) for hop in path.hops):
        return "it returned hops that are no descriptors of Mix-nodes"
    if len(path.hops) != request.hops:
        return f"it returned {counted(len(path.hops), 'hop')} for {request.hops}"
    ids = [hop.node_id for hop in path.hops]
    if len(set(ids)) != len(ids):
        return "it returned a path that visits a Mix-node twice"
    if request.source in ids:
        return "it returned a path through this node itself"
    if tuple(ids[: len(request.via)]) != request.via:
        return "it returned a path that does not begin with the nodes that the user named"
    if request.exit is not None and ids[-1] != request.exit:
        return "it returned a path that does not end at the exit that was asked for"
    return _fault_of_hops(ids, path, table)


def _fault_of_hops(ids: list[NodeId], path: MixPath, table: TopologyView) -> str | None:
    for position, (node_id, hop) in enumerate(zip(ids, path.hops, strict=True), start=1):
        known = table.get(node_id)
        if known is None or known.encoded != hop.encoded:
            return f"its hop {position} is not in the topology table"
        needed = Role.EXIT if position == len(ids) else Role.RELAY
        if needed not in hop.roles:
            return f"its hop {position} is no {needed.value}"
    return None
