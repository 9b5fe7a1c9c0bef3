"""The control socket: how the owner of a running node asks it what it does and tells it what to do.

``docs/formats/control-socket.md`` has the format. ``model`` holds requests, reports and what a
node must offer, ``codec`` their JSON, ``server`` the node's side, ``client`` the command line's.
"""

from overlay.control.client import ControlClient, RequestFailed
from overlay.control.model import (
    ClosePathRequest,
    ControlService,
    OpenPathRequest,
    PathReport,
    PeerReport,
    StatusReport,
)
from overlay.control.server import serve_control

__all__ = [
    "ClosePathRequest",
    "ControlClient",
    "ControlService",
    "OpenPathRequest",
    "PathReport",
    "PeerReport",
    "RequestFailed",
    "StatusReport",
    "serve_control",
]
