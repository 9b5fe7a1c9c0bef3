"""An anonymous overlay at the IP layer: circuits of nested standard IPsec ESP tunnels.

The Python API, beside the command line::

    async with OverlayNode(configuration, identity) as node:
        async with node.anonymous_path(ip_network("203.0.113.10/32"), hops=3) as path:
            ...
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overlay.node import OverlayNode

__all__ = ["OverlayNode", "__version__"]

__version__ = version("anonymous-overlay")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attributes may be anything
    """Import the node when it is first named, so that the cores stay light to import."""
    if name == "OverlayNode":
        from overlay.node import OverlayNode

        return OverlayNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
