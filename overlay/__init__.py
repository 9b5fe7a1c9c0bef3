"""An anonymous overlay at the IP layer: circuits of nested standard IPsec ESP tunnels.

The Python API, beside the command line::

    async with OverlayNode(configuration, identity) as node:
        async with node.anonymous_path("203.0.113.10", hops=3) as path:
            ...

``docs/python-api.md`` has more, such as how to use the node that runs on this host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overlay.node import OverlayNode

    __version__: str

__all__ = ["OverlayNode", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attributes may be anything
    """Import what is slow when it is first named, so that cores and command line stay light."""
    if name == "__version__":
        from importlib.metadata import version

        return version("anonymous-overlay")
    if name == "OverlayNode":
        from overlay.node import OverlayNode

        return OverlayNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
