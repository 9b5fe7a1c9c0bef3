"""The paths of a node on disk, so that they outlive the process and a reboot.

One JSON file, mode 0600, replaced as a whole (``docs/formats/remembered-paths.md``)::

    {"version": 1, "paths": [{"destination": "203.0.113.10/32", "hops": 3,
                              "strategy": "uniform", "via": [], "both_versions": false}]}

Nothing in the file is trusted: it is read up to a bound, and every value is checked. If the file is
damaged, every readable destination is blocked. So a file of an earlier or later version of this
program releases nothing either. A damaged file gets a second name before it is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeGuard

from overlay.addresses import NODE_ID_BYTES, IpNetwork, NodeId
from overlay.config import Configuration
from overlay.config.sections import SelectionSettings
from overlay.errors import BackendError, Malformed
from overlay.hop_limit import MAX_HOPS
from overlay.paths.requested_path import PathTerms

__all__ = [
    "FILE_VERSION",
    "MAX_ASIDE",
    "MAX_FILE_BYTES",
    "MAX_NAME_CHARACTERS",
    "PathFile",
    "decode_paths",
    "encode_paths",
]

MAX_FILE_BYTES: Final = 512 * 1024
"""Room for 256 paths with the longest names and five fixed hops each."""

MAX_STORED: Final = 256

FILE_VERSION: Final = 1
_FIELDS: Final = {"destination", "hops", "strategy", "via", "both_versions"}
MAX_NAME_CHARACTERS: Final = 64
_DESTINATION: Final = re.compile(rb'"destination"\s*:\s*"([0-9a-fA-F.:]{2,45}(?:/[0-9]{1,3})?)"')
_SELECTION: Final = SelectionSettings()
MAX_ASIDE: Final = 8

_NO_FILE: Final = frozenset((errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENOTDIR))
"""What opening gives if a directory, a symbolic link or a socket is in the file's place."""


def encode_paths(all_terms: Iterable[PathTerms]) -> bytes:
    """Return the content of the file."""
    paths = [
        {
            "destination": str(terms.destination),
            "hops": terms.hops,
            "strategy": terms.strategy,
            "via": [node_id.hex() for node_id in terms.via],
            "both_versions": terms.both_versions,
        }
        for terms in all_terms
    ]
    return json.dumps({"version": FILE_VERSION, "paths": paths}, indent=1).encode() + b"\n"


def decode_paths(
    data: bytes, selection: SelectionSettings = _SELECTION
) -> tuple[list[PathTerms], int]:
    """Return the paths of a file's content, and how many entries are damaged.

    A damaged entry with a readable destination gives a path to it. Its other readable values are
    used, and the rest is as configured. Of two entries for one destination the first is used.

    Args:
        data: the content. If it is no JSON, texts that look like destinations are used.
        selection: hops and strategy of paths that name none.

    Raises:
        Malformed: the content is damaged and names no destination.
    """
    content, flaw = _parsed(data)
    entries = content.get("paths")
    if not isinstance(entries, list):
        flaw = flaw or "the file has no list of paths."
        entries = [{"destination": each.decode()} for each in _DESTINATION.findall(data)]
    elif content.get("version") != FILE_VERSION:
        flaw = "the file has no version that this program knows."
    found: dict[IpNetwork, PathTerms] = {}
    whole = 0
    for entry in entries[:MAX_STORED]:
        terms = _terms(entry, selection)
        if terms is not None and found.setdefault(terms.destination, terms) is terms:
            whole += _is_whole(entry)
    if flaw and not found:
        raise Malformed(flaw)
    return list(found.values()), max(len(entries) - whole, bool(flaw))


def _parsed(data: bytes) -> tuple[Mapping[str, object], str]:
    """Return the JSON object, empty if there is none, and the fault of the content."""
    if len(data) > MAX_FILE_BYTES:
        return {}, "the file is too large."
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError):
        return {}, "the file is not valid JSON in UTF-8."
    return (content, "") if isinstance(content, dict) else ({}, "the file holds no JSON object.")


def _is_whole(entry: object) -> bool:
    """Tell whether an entry has exactly the fields and values of this version."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        return False
    strategy, hops, via = entry["strategy"], entry["hops"], entry["via"]
    return (
        _is_strategy(strategy)
        and _is_hops(hops)
        and _read_via(via) is not None
        and type(entry["both_versions"]) is bool
    )


def _terms(entry: object, selection: SelectionSettings) -> PathTerms | None:
    """Return the path of an entry; None if no destination can be read."""
    if not isinstance(entry, dict):
        return None
    destination = _read_destination(entry.get("destination"))
    if destination is None:
        return None
    hops, strategy = entry.get("hops"), entry.get("strategy")
    # Without this field an entry means one IP version. An unreadable value may mean both.
    both = entry.get("both_versions", False)
    return PathTerms(
        destination,
        hops if _is_hops(hops) else selection.hops,
        strategy if _is_strategy(strategy) else selection.strategy,
        _read_via(entry.get("via")) or (),
        both if type(both) is bool else True,
    )


def _is_hops(value: object) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= MAX_HOPS


def _is_strategy(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME_CHARACTERS


def _read_destination(value: object) -> IpNetwork | None:
    if not isinstance(value, str):
        return None
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        return None
    return network if getattr(network.network_address, "scope_id", None) is None else None


def _read_via(value: object) -> tuple[NodeId, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_HOPS:
        return None
    try:
        fixed = tuple(NodeId(bytes.fromhex(each)) for each in value)
    except (ValueError, TypeError):
        return None
    return fixed if all(len(each) == NODE_ID_BYTES for each in fixed) else None


class PathFile:
    """The file. Only the user of the node may write to its directory.

    ``damaged`` counts entries that were damaged, and whole files that could not be used.
    """

    def __init__(
        self, path: Path, *, remembers: bool = True, selection: SelectionSettings = _SELECTION
    ) -> None:
        """Name the file; nothing is read yet.

        Args:
            path: the file; its directory exists.
            selection: hops and strategy of damaged entries that name none.
            remembers: whether :meth:`save` writes. If not, it removes the file, so that the file
                of an earlier configuration does not stay on the disk.
        """
        self._path = path
        self._remembers = remembers
        self._selection = selection
        self.damaged = 0

    @classmethod
    def of(cls, configuration: Configuration) -> PathFile:
        """Return the file that a configuration names."""
        return cls(
            configuration.node.paths_file,
            remembers=configuration.paths.remember,
            selection=configuration.selection,
        )

    @property
    def is_current(self) -> bool:
        """Whether the file may stay as it is while there are no paths."""
        return self._remembers and not self.damaged

    def load(self) -> list[PathTerms]:
        """Return the stored paths. Damaged entries are counted, and never raise an error.

        Raises:
            BackendError: the file exists and cannot be read now. It is not changed, because its
                destinations would be forgotten.
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
            all_terms, unusable = decode_paths(data, self._selection)
        except Malformed:
            all_terms, unusable = [], 1
        if unusable:
            self.damaged += unusable
            self._keep_copy()
        return all_terms

    def save(self, all_terms: Iterable[PathTerms]) -> None:
        """Replace the file. After a crash it contains the old paths or the new ones.

        Raises:
            BackendError: the operating system refused; the old file still exists.
        """
        try:
            if self._remembers:
                self._replace(encode_paths(all_terms))
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

    def _keep_copy(self) -> None:
        """Give the file a second name, because :meth:`save` replaces it.

        The first name stays until then. Otherwise a crash or a full disk would leave no file.
        """
        for aside in self._names_aside():
            with contextlib.suppress(OSError):
                if aside.samefile(self._path):
                    return
            with contextlib.suppress(OSError):
                os.link(self._path, aside)
                return

    def _set_aside(self) -> None:
        """Rename a directory or device with this name, unless there are many copies already."""
        for aside in self._names_aside():
            if not os.path.lexists(aside):
                with contextlib.suppress(OSError):
                    self._path.rename(aside)
                return

    def _names_aside(self) -> list[Path]:
        names = (f"{self._path.name}.damaged-{number}" for number in range(1, MAX_ASIDE + 1))
        return [self._path.with_name(name) for name in names]
