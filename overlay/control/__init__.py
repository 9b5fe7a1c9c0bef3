"""The control socket: how the owner of a running node asks it what it does and tells it what to do.

``docs/formats/control-socket.md`` has the format. ``model`` holds requests, reports and what a
node must offer, ``codec`` their JSON, ``client`` the command line's side. ``server``, the node's
side, is imported from its module: who only asks shall not wait for what it needs.
"""

from overlay.control.client import ControlClient, RequestFailed
from overlay.control.service import (
    ClosePathRequest,
    ControlService,
    OpenPathRequest,
    OpenPathsRequest,
    PathReport,
    PeerReport,
    StatusReport,
    StopReport,
)

__all__ = [
    "ClosePathRequest",
    "ControlClient",
    "ControlService",
    "OpenPathRequest",
    "OpenPathsRequest",
    "PathReport",
    "PeerReport",
    "RequestFailed",
    "StatusReport",
    "StopReport",
]
