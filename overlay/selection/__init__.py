"""Path selection: which Mix-nodes carry a circuit, and in which order (paper, section 2.1)."""

from overlay.selection.selector import MixPath, PathRequest, PathSelector, TopologyView

__all__ = ["MixPath", "PathRequest", "PathSelector", "TopologyView"]
