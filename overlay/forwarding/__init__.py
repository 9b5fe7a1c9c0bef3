"""Anonymous forwarding rules for the packets of circuits (paper, section 2.5).

The source normalises headers that identify its host. The exit drops packets that its policy does
not permit.
"""

from overlay.forwarding.rules import ForwardingRules

__all__ = ["ForwardingRules"]
