"""Traffic Flow Confidentiality: padding, timing and dummy packets on links (paper, section 2.3)."""

from overlay.tfc.strategy import LinkHandle, TfcStrategy

__all__ = ["LinkHandle", "TfcStrategy"]
