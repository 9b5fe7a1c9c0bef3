"""Record the origin of results: versions, machine, command and date, to reproduce them."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import overlay

__all__ = ["origin_of"]

_PACKAGES: Final = (
    "cryptography", "distributed", "kademlia", "matplotlib", "msgpack", "numpy", "trio",
)  # fmt: skip


def origin_of(command: Sequence[str]) -> dict[str, object]:
    """Return the content of ``config.json`` besides the study."""
    return {
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(command),
        "versions": {
            "overlay": overlay.__version__,
            "git": _git_hash(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_hash() -> str | None:
    """Return the commit of the source tree, marked if it was changed, or None without git."""
    root = Path(overlay.__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None or _git(root, "ls-files", "--error-unmatch", "overlay/__init__.py") is None:
        return None
    return f"{commit} (changed)" if _git(root, "status", "--porcelain", "-uno") else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
