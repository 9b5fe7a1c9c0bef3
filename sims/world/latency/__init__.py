"""One-way delays of datagrams: constant, uniform, or by geography."""

from sims.world.latency.geographic import Geographic, read_matrix, shipped_matrix
from sims.world.latency.latency_models import Constant, LatencyModel, Uniform, build_latency

__all__ = [
    "Constant",
    "Geographic",
    "LatencyModel",
    "Uniform",
    "build_latency",
    "read_matrix",
    "shipped_matrix",
]
