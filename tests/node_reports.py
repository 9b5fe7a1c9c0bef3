"""Reports of a node, as tests of what reads them need them."""

from overlay.control.service import StatusReport

STATUS = StatusReport(
    version="0",
    node_id="ab" * 20,
    overlay_address="fd6d:6978::7",
    network_id="test",
    uptime_s=60.0,
    backend="userspace",
    backend_reason="it is named",
    roles=(),
    listen=(),
    joined=True,
    contacts=7,
    mix_nodes=6,
    exits=1,
    links=1,
    circuits_own=0,
    circuits_relayed=0,
    circuits_exit=0,
    counters={},
    drops={},
    protected=(),
    protection=(),
    tfc="none",
    forwarding="standard",
)
"""A node that works and has no circuits; tests change fields with ``dataclasses.replace``."""
