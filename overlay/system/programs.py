"""Programs of the operating system, also where an ordinary user's PATH does not lead."""

from __future__ import annotations

import os
import shutil
from typing import Final

__all__ = ["find_program"]

_SYSTEM_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where Debian and others put nft and iptables; the PATH of an ordinary user leaves them out."""


def find_program(name: str) -> str | None:
    """Return the file of a program, in PATH or the system's directories; None if there is none."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join((path, *_SYSTEM_DIRECTORIES)))
