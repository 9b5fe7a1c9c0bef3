"""Start nodes in milliseconds by forking this process, which has imported the product.

After the fork each node has its own process, namespace, socket, files and memory. Only the code is
shared. If thirty interpreters were started again and again, the time of imports would dominate the
measurement.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lab.child import become_program
from lab.namespaces import Namespace

__all__ = ["Forked"]


class Forked:
    """A child of this process inside a namespace; it ends, at the latest, with its parent.

    The parent must have only one thread when it makes a child.
    """

    def __init__(self, namespace: Namespace, log: Path, program: Callable[[], int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.pid = os.fork()
        if self.pid == 0:
            become_program(program, namespace=namespace.pid, stdout=output, stderr=output)
        os.close(output)

    def kill(self) -> None:
        """End the process with SIGKILL, like a crash."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def ended(self) -> bool:
        """Tell whether the process has ended by itself."""
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0
