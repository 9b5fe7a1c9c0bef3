"""The node: the five blocks, one IPsec backend and one network, wired together."""

from overlay.node.node import AnonymousPath, OverlayNode, run_node

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]
