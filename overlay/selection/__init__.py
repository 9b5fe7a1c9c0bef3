"""Path selection: choose the Mix-nodes of a circuit and their order (paper, section 2.1)."""

from overlay.selection.selector import MixPath, PathRequest, PathSelector, TopologyView

__all__ = ["MixPath", "PathRequest", "PathSelector", "TopologyView"]
