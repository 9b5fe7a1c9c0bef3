"""Questions to laboratory nodes over their control sockets."""

from overlay.control.client import ControlClient, NoNodeAnswers
from overlay.errors import BackendError


def asked(node, question):
    """Ask without starting a program; None while no node answers."""
    try:
        with ControlClient(node.directory / "run" / "control.sock") as client:
            return getattr(client, question)()
    except (NoNodeAnswers, BackendError):
        return None


def status(node):
    return asked(node, "status")
