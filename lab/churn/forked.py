"""Processes that start in milliseconds: forked from this one, which has imported the product.

Each is a node of its own: its own process, namespace, socket, files and memory from there on.
What is shared is code that was read from disk once; starting thirty interpreters, again and
again, would measure the imports of a laptop.
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
    """A child of this process inside a namespace; it dies with its parent at the latest.

    The parent must run one thread only when it makes one.
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
        """End it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0
