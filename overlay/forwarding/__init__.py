"""Anonymous forwarding rules: what is normalised, refused and forgotten (paper, section 2.5)."""

from overlay.forwarding.rules import ForwardingRules

__all__ = ["ForwardingRules"]
