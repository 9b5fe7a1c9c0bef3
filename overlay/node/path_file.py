"""The paths of a node on disk, so that they outlive the process and a reboot.

One JSON file, mode 0600, replaced as a whole (``docs/formats/remembered-paths.md``)::

    {"version": 1, "paths": [{"destination": "203.0.113.10/32", "hops": 3,
                              "strategy": "uniform", "via": [], "both_families": false}]}

Nothing in the file is trusted: it is read up to a bound, every value is checked, and what
cannot be used is left out. A damaged file is set aside under another name.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from overlay.addresses import NODE_ID_BYTES, IpNetwork, NodeId
from overlay.apm.settings import MAX_HOPS
from overlay.errors import BackendError, Malformed
from overlay.node.requested_path import PathWish

__all__ = ["MAX_FILE_BYTES", "PathFile", "decode_paths", "encode_paths"]

MAX_FILE_BYTES: Final = 512 * 1024
"""Room for 256 paths with the longest names and five fixed hops each."""

MAX_STORED: Final = 256

_VERSION: Final = 1
_FIELDS: Final = {"destination", "hops", "strategy", "via", "both_families"}
_MAX_NAME_CHARACTERS: Final = 64
_MAX_ASIDE: Final = 8

_NO_FILE: Final = frozenset((errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENOTDIR))
"""What opening gives if a directory, a symbolic link or a socket is in the file's place."""


def encode_paths(wishes: Iterable[PathWish]) -> bytes:
    """Return the file's content."""
    paths = [
        {
            "destination": str(wish.destination),
            "hops": wish.hops,
            "strategy": wish.strategy,
            "via": [node_id.hex() for node_id in wish.via],
            "both_families": wish.both_families,
        }
        for wish in wishes
    ]
    return json.dumps({"version": _VERSION, "paths": paths}, indent=1).encode() + b"\n"


def decode_paths(data: bytes) -> tuple[list[PathWish], int]:
    """Return the paths of a file's content, and how many entries cannot be used.

    Of two entries for one destination the first counts, the other cannot be used.

    Raises:
        Malformed: the content as a whole is no such file.
    """
    if len(data) > MAX_FILE_BYTES:
        raise Malformed("the file is too large.")
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Malformed("the file is not valid JSON in UTF-8.") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise Malformed("the file has no version that this program knows.")
    entries = content.get("paths")
    if not isinstance(entries, list):
        raise Malformed("the file has no list of paths.")
    found: dict[IpNetwork, PathWish] = {}
    for entry in entries[:MAX_STORED]:
        wish = _wish(entry)
        if wish is not None:
            found.setdefault(wish.destination, wish)
    return list(found.values()), len(entries) - len(found)


def _wish(entry: object) -> PathWish | None:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        return None
    destination, hops, via = entry["destination"], entry["hops"], entry["via"]
    strategy, both = entry["strategy"], entry["both_families"]
    if not isinstance(destination, str) or type(hops) is not int or not isinstance(via, list):
        return None
    if not isinstance(strategy, str) or not 1 <= len(strategy) <= _MAX_NAME_CHARACTERS:
        return None
    if not 1 <= hops <= MAX_HOPS or len(via) > MAX_HOPS or type(both) is not bool:
        return None
    try:
        network = ipaddress.ip_network(destination)
        fixed = tuple(NodeId(bytes.fromhex(each)) for each in via)
    except (ValueError, TypeError):
        return None
    if getattr(network.network_address, "scope_id", None) is not None:
        return None
    if any(len(each) != NODE_ID_BYTES for each in fixed):
        return None
    return PathWish(network, hops, strategy, fixed, both)


class PathFile:
    """The file; its directory belongs to the node's user alone.

    ``damaged`` counts entries and whole files that could not be used.
    """

    def __init__(self, path: Path, *, remembers: bool = True) -> None:
        """Name the file; nothing is read yet.

        Args:
            path: the file; its directory exists.
            remembers: whether :meth:`save` writes. If not, it removes the file, so that what
                an earlier configuration wrote does not stay on the disk.
        """
        self._path = path
        self._remembers = remembers
        self.damaged = 0

    @property
    def is_current(self) -> bool:
        """Whether the file may stay as it is while there are no paths."""
        return self._remembers and not self.damaged

    def load(self) -> list[PathWish]:
        """Return the stored paths. What is damaged is counted and set aside, never raised.

        Raises:
            BackendError: the file is there and cannot be read now. It is left as it is, because
                what it lists would be forgotten.
        """
        try:
            data = self._read()
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise BackendError(
                    f"{self._path} cannot be read ({error.strerror}), so the destinations that it "
                    "lists would not be blocked: let the node's user read it, or move it away."
                ) from error
            self.damaged += 1
            self._set_aside()
            return []
        try:
            wishes, unusable = decode_paths(data)
        except Malformed:
            wishes, unusable = [], 1
        if unusable:
            self.damaged += unusable
            self._set_aside()
        return wishes

    def save(self, wishes: Iterable[PathWish]) -> None:
        """Replace the file: after a crash it holds the old paths or the new ones.

        Raises:
            BackendError: the operating system refused; the old file is there still.
        """
        try:
            if self._remembers:
                self._replace(encode_paths(wishes))
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise BackendError(
                f"{self._path} cannot be written ({error.strerror}); paths that are open now will "
                "not be restored after a reboot until it can be."
            ) from error

    def _read(self) -> bytes:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        with open(os.open(self._path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EISDIR, "not a regular file")
            return file.read(MAX_FILE_BYTES + 1)

    def _replace(self, data: bytes) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _set_aside(self) -> None:
        """Rename the file to ``.damaged-N``; if there are many already, leave it where it is."""
        for number in range(1, _MAX_ASIDE + 1):
            aside = self._path.with_name(f"{self._path.name}.damaged-{number}")
            if not os.path.lexists(aside):
                with contextlib.suppress(OSError):
                    self._path.rename(aside)
                return
