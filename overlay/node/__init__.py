"""The node: it connects the five blocks of the design, an IPsec backend and the network."""

from overlay.node.node import AnonymousPath, OverlayNode, run_node

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]
