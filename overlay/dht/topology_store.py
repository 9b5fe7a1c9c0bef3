"""Store the Mix-nodes Topology Table on disk, so that a restarted node knows which nodes to ask.

One SQLite file, mode 0600, holds the encoded descriptors and, apart from them, the *hints*:
(identity key, endpoint) pairs that do not expire. If the node was off for so long that all
descriptors have expired, it joins the overlay through the hints.

Nothing in the file is trusted: descriptors are parsed and verified again when loaded, and a
hint is only an address to contact. The file may be truncated or damaged at any byte. A damaged
file is renamed, and its readable rows are copied to a new one.
Layout and guarantees: ``docs/formats/topology-store.md``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor, UnverifiedDescriptor
from overlay.errors import BackendError, ConfigurationError, Malformed, PeerError
from overlay.identity import PUBLIC_KEY_BYTES

__all__ = [
    "APPLICATION_ID",
    "MAX_HINTS",
    "SCHEMA_VERSION",
    "BootstrapHint",
    "StoredTopology",
    "TopologyStore",
]

SCHEMA_VERSION: Final = 1

MAX_HINTS: Final = 2_000
"""Hints of each network. If there are more, those seen longest ago are removed."""

APPLICATION_ID: Final = 0x4D545431
"""``MTT1``, which distinguishes this file from the SQLite files of other programs."""

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE descriptors (
    network_id TEXT NOT NULL,
    node_id BLOB NOT NULL,
    encoded BLOB NOT NULL,
    PRIMARY KEY (network_id, node_id)
) WITHOUT ROWID;
CREATE TABLE hints (
    network_id TEXT NOT NULL,
    identity_key BLOB NOT NULL,
    address BLOB NOT NULL,
    port INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (network_id, identity_key, address, port)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_Row = tuple[object, ...]

_DATABASE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""The second: sqlite3 cannot decode the message if it quotes a schema that is damaged."""


@dataclass(frozen=True, slots=True)
class BootstrapHint:
    """An endpoint at which a Mix-node once answered; ``last_seen`` in Unix seconds."""

    identity_key: bytes
    endpoint: Endpoint
    last_seen: int


@dataclass(frozen=True, slots=True)
class StoredTopology:
    """Result of :meth:`TopologyStore.load`: descriptors that verify, and the number of others."""

    descriptors: tuple[MixDescriptor, ...]
    unusable: int


@dataclass(slots=True)
class _Salvage:
    """The rows of a damaged file that can still be read."""

    descriptors: list[_Row] = field(default_factory=list)
    hints: list[_Row] = field(default_factory=list)


class TopologyStore:
    """The open file; one task at a time may call it (any thread).

    ``set_aside`` names the files that were found damaged, oldest first: the caller tells the
    user. Calls block for as long as the disk needs: one transaction a call, some ms.
    """

    def __init__(self, path: Path, network_id: str) -> None:
        """Open the file for one network, creating it with mode 0600 if there is none.

        Raises:
            ConfigurationError: the file belongs to another program, to a newer version, or
                to a node that is running.
            BackendError: the operating system does not let us create, read or write it.
        """
        self._path = path
        self._network_id = network_id
        self._saved: dict[object, object] = {}
        """What the file holds for this network: node id -> encoded descriptor."""
        self.set_aside: list[Path] = []
        with self._translated("open"):
            try:
                self._database = self._open()
            except _DATABASE_ERRORS as error:
                if not _is_damage(error):
                    raise
                self._start_anew(_Salvage())
            self._repair_if_damaged()

    def close(self) -> None:
        """Close the file. Every save is already on disk."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the three calls -----------------------------------------------------------------

    def load(self, now: float) -> StoredTopology:
        """Return the stored descriptors of this network that verify at ``now``.

        The next :meth:`save` removes the others, most of which have expired.
        """
        found = []
        for node_id, encoded in self._saved.items():
            with contextlib.suppress(PeerError):
                found.append(self._verified(node_id, encoded, now))
        return StoredTopology(tuple(found), len(self._saved) - len(found))

    def save(
        self, table: Iterable[MixDescriptor], now: float, *, never_heard: Collection[NodeId] = ()
    ) -> int:
        """Make the file hold what the table holds, and return how many rows that changed.

        Only differences are written, in one transaction: after a crash at any moment the
        file holds the table of this save or of the one before. New and renewed descriptors
        refresh their hints. Rows of nodes that left the table are removed, but their hints stay.

        ``never_heard`` are the nodes of the table that did not answer by themselves. They get
        no hint: one subnet can make thousands of them known, more than there are hints.
        """
        wanted = {bytes(descriptor.node_id): descriptor for descriptor in table}
        try:
            return self._write(wanted, now, never_heard)
        except _DATABASE_ERRORS as error:
            if not _is_damage(error):
                raise self._backend_error("write", error) from error
        with self._translated("rebuild"):
            self._rebuild()
            return self._write(wanted, now, never_heard)

    def bootstrap_hints(self) -> list[BootstrapHint]:
        """Return the hints of this network, last seen first."""
        with self._translated("read"):
            rows = self._database.execute(
                "SELECT identity_key, address, port, last_seen FROM hints"
                " WHERE network_id = ? ORDER BY last_seen DESC, identity_key, address, port",
                (self._network_id,),
            ).fetchall()
        return [hint for row in rows if (hint := _hint(*row)) is not None]

    # -- writing -------------------------------------------------------------------------

    def _write(
        self, wanted: dict[bytes, MixDescriptor], now: float, never_heard: Collection[NodeId]
    ) -> int:
        changed = {k: d for k, d in wanted.items() if self._saved.get(k) != d.encoded}
        vanished = [node_id for node_id in self._saved if node_id not in wanted]
        if not changed and not vanished:
            return 0
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM descriptors WHERE network_id = ? AND node_id = ?",
                ((self._network_id, node_id) for node_id in vanished),
            )
            self._insert_descriptors(
                (self._network_id, node_id, d.encoded) for node_id, d in changed.items()
            )
            for descriptor in changed.values():
                if descriptor.node_id not in never_heard:
                    self._refresh_hints(descriptor, int(now))
            self._forget_oldest_hints()
        self._saved = {node_id: d.encoded for node_id, d in wanted.items()}
        return len(changed) + len(vanished)

    def _insert_descriptors(self, rows: Iterable[_Row]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO descriptors VALUES (?, ?, ?)", rows)

    def _insert_hints(self, rows: Iterable[_Row]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO hints VALUES (?, ?, ?, ?, ?)", rows)

    def _refresh_hints(self, descriptor: MixDescriptor, now: int) -> None:
        owner = (self._network_id, descriptor.identity_key)
        self._database.execute("DELETE FROM hints WHERE network_id = ? AND identity_key = ?", owner)
        self._insert_hints((*owner, e.packed, e.port, now) for e in descriptor.endpoints)

    def _forget_oldest_hints(self) -> None:
        self._database.execute(
            "DELETE FROM hints WHERE (network_id, identity_key, address, port) IN ("
            " SELECT network_id, identity_key, address, port FROM hints WHERE network_id = ?"
            " ORDER BY last_seen DESC, identity_key, address, port LIMIT -1 OFFSET ?)",
            (self._network_id, MAX_HINTS),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(*_DATABASE_ERRORS):
                self._database.execute("ROLLBACK")
            raise

    # -- reading -------------------------------------------------------------------------

    def _verified(self, node_id: object, encoded: object, now: float) -> MixDescriptor:
        if not isinstance(encoded, bytes):
            raise Malformed("a stored descriptor is no byte string")
        unverified = UnverifiedDescriptor.parse(encoded)
        if unverified.node_id != node_id:
            raise Malformed("a stored descriptor is filed under another node")
        return unverified.verify(network_id=self._network_id, now=now)

    # -- opening and repair ----------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        _create_private(self._path)
        database = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=0
        )
        try:
            self._prepare(database)
            self._path.chmod(0o600)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Lock the file, then check which program it belongs to, then create what is missing.

        SQLite's default rollback journal serves better than WAL here: writes are rare, one
        process reads, and the user can copy or move a single file.
        """
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA synchronous = FULL")
        # A damaged text column must give a wrong value, not an exception.
        database.text_factory = lambda text: text.decode(errors="replace")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
        application = _pragma(database, "application_id")
        version = _pragma(database, "user_version")
        tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not tables and application == 0:
            database.executescript(_SCHEMA)
        elif application != APPLICATION_ID:
            raise ConfigurationError(
                f"{self._path} belongs to another program; name another file for the topology."
            )
        elif version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path} was written by another version of this program (schema {version}, "
                f"this one reads {SCHEMA_VERSION}); update, or move the file away: only "
                f"a cache of known Mix-nodes is in it."
            )

    def _repair_if_damaged(self) -> None:
        try:
            sound = self._database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            self._database.execute("SELECT count(*) FROM hints").fetchone()
            self._remember_saved()
        except _DATABASE_ERRORS as error:
            if not _is_damage(error):
                raise
            sound = False
        if not sound:
            self._rebuild()

    def _remember_saved(self) -> None:
        rows = self._database.execute(
            "SELECT node_id, encoded FROM descriptors WHERE network_id = ?", (self._network_id,)
        )
        self._saved = dict(rows)

    def _rebuild(self) -> None:
        salvage = self._salvage()
        self._database.close()
        self._start_anew(salvage)

    def _salvage(self) -> _Salvage:
        salvage = _Salvage()
        for rows, query in (
            (salvage.descriptors, "SELECT network_id, node_id, encoded FROM descriptors"),
            (salvage.hints, "SELECT network_id, identity_key, address, port, last_seen FROM hints"),
        ):
            with contextlib.suppress(*_DATABASE_ERRORS):
                # One row at a time, so that the rows before the damage are kept.
                for row in self._database.execute(query):
                    rows.append(row)
        return salvage

    def _start_anew(self, salvage: _Salvage) -> None:
        """Move the damaged file aside and begin another one with what could be read."""
        self.set_aside.append(_move_aside(self._path))
        self._database = self._open()
        with self._transaction():
            self._insert_descriptors(row for row in salvage.descriptors if None not in row)
            self._insert_hints(row for row in salvage.hints if None not in row)
        self._remember_saved()

    # -- errors ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (*_DATABASE_ERRORS, OSError) as error:
            raise self._backend_error(operation, error) from error

    def _backend_error(self, operation: str, error: Exception) -> Exception:
        if isinstance(error, sqlite3.OperationalError) and _code(error) == sqlite3.SQLITE_BUSY:
            return ConfigurationError(
                f"{self._path} is in use by another process; stop that node, or name another file."
            )
        return BackendError(f"cannot {operation} the topology store {self._path}: {error}.")


def _create_private(path: Path) -> None:
    """Create the file if there is none. An empty file is used, and any other is checked first.

    The journal takes its mode from the file, so this precedes the first write.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _code(error: Exception) -> int:
    """Return the primary result code; its extensions live above the low byte."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _is_damage(error: Exception) -> bool:
    """Tell whether content is damaged, not a disk full, a file locked or a right missing."""
    if isinstance(error, UnicodeDecodeError):
        return True
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _move_aside(path: Path) -> Path:
    """Rename the file, and a journal that belongs to it, to the first free ``.damaged-N``."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    journal = path.with_name(f"{path.name}-journal")
    if journal.exists():
        journal.rename(aside.with_name(f"{aside.name}-journal"))
    return aside


def _hint(
    identity_key: object, address: object, port: object, seen: object
) -> BootstrapHint | None:
    if not isinstance(identity_key, bytes) or len(identity_key) != PUBLIC_KEY_BYTES:
        return None
    if not isinstance(address, bytes):
        return None
    if not isinstance(port, int) or not isinstance(seen, int):
        return None
    try:
        return BootstrapHint(identity_key, Endpoint.from_packed(address, port), seen)
    except Malformed:
        return None
