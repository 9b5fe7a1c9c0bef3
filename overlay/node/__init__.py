"""The node: it connects the five blocks of the design, an IPsec backend and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overlay.node.node import AnonymousPath, OverlayNode, run_node

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attributes may be anything
    """Import the node when it is first named, because the doctor needs only parts of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from overlay.node import node

    return getattr(node, name)
