"""Find programs of the operating system, including those outside an ordinary user's PATH."""

from __future__ import annotations

import os
import shutil
from typing import Final

__all__ = ["SYSTEM_DIRECTORIES", "find_program"]

SYSTEM_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Directories of nft and iptables on Debian and others, which an ordinary user's PATH lacks."""


def find_program(name: str) -> str | None:
    """Return the file of a program in PATH or the system's directories, or None."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join((path, *SYSTEM_DIRECTORIES)))
