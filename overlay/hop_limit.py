"""The most Mix-nodes of a path, for every block and every format that states it.

An onion signalling message has one slot for each hop (docs/formats/onion-signalling-message.md). An
IPsec policy of the Linux kernel has at most six templates (``XFRM_MAX_DEPTH``): five onion layers
and the link. Each door checks it once: the configuration, the command line, the control socket
(``overlay.control.codec``), Python programs (``overlay.node.asked``), the file of remembered paths,
and ``overlay.selection.constraints`` for all strategies.
"""

from typing import Final

__all__ = ["MAX_HOPS"]

MAX_HOPS: Final = 5
"""The exit counts as a hop."""
