"""The control socket, over which the operator of a running node queries and controls it.

``docs/formats/control-socket.md`` describes the format. ``service`` has requests, reports and the
interface of the node, ``codec`` their JSON, and ``client`` the client of the command line.
``server`` is not imported here, because clients should not wait for its imports.
"""

from overlay.control.client import ControlClient, RequestFailed
from overlay.control.service import (
    ClosePathRequest,
    ControlService,
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
    "OpenPathsRequest",
    "PathReport",
    "PeerReport",
    "RequestFailed",
    "StatusReport",
    "StopReport",
]
