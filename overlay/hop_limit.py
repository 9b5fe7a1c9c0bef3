"""The maximum number of Mix-nodes of a path, for all blocks and formats.

An onion signalling message has one slot for each hop (docs/formats/onion-signalling-message.md). An
IPsec policy of the Linux kernel has at most six templates (``XFRM_MAX_DEPTH``): five onion layers
and the link.

Each entry to the node checks the limit once: the configuration, the command line, the control
socket (``overlay.control.codec``), Python programs (``overlay.node.asked``), and the file of
remembered paths. ``overlay.selection.constraints`` checks it for all strategies.
"""

from typing import Final

__all__ = ["MAX_HOPS"]

MAX_HOPS: Final = 5
"""The exit counts as a hop."""
