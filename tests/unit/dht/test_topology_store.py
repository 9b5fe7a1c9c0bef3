from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.dht import topology_store
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role, sign_descriptor
from overlay.dht.topology_store import BootstrapHint, TopologyStore
from overlay.errors import BackendError, ConfigurationError
from overlay.identity import LocalIdentity

NOW = 1_800_000_000
MIXES = [LocalIdentity.generate(Random(seed)) for seed in range(40)]


def mix(
    n: int, *, sequence: int = 1, lasts: int = 3600, port: int = 4500, network_id: str = "test"
) -> MixDescriptor:
    identity = MIXES[n]
    return sign_descriptor(
        identity,
        network_id=network_id,
        onion_keys=[OnionKey(1, identity.onion_key)],
        esp_suites=[3],
        endpoints=[Endpoint("198.51.100.7", port), Endpoint("2001:db8::7", port)],
        roles=[Role.RELAY],
        exit_policy=None,
        bandwidth_kbit=1000,
        sequence=sequence,
        valid_from=NOW,
        expires=NOW + lasts,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topology.sqlite"


def loaded(path: Path, now: float = NOW, network_id: str = "test") -> set[MixDescriptor]:
    with TopologyStore(path, network_id) as store:
        assert not store.set_aside
        return set(store.load(now).descriptors)


# -- the good case ---------------------------------------------------------------------


def test_saved_table_is_loaded_again(path):
    table = [mix(n) for n in range(5)]
    with TopologyStore(path, "test") as store:
        assert store.save(table, NOW) == 5
        assert set(store.load(NOW).descriptors) == set(table)
    assert loaded(path) == set(table)


def test_only_differences_are_written(path):
    with TopologyStore(path, "test") as store:
        assert store.save([mix(0), mix(1), mix(2)], NOW) == 3
        assert store.save([mix(0), mix(1), mix(2)], NOW) == 0
        assert store.save([mix(0), mix(1, sequence=2), mix(3)], NOW) == 3
    with TopologyStore(path, "test") as store:
        assert store.save([mix(0), mix(1, sequence=2), mix(3)], NOW) == 0
    assert loaded(path) == {mix(0), mix(1, sequence=2), mix(3)}


def test_file_is_readable_by_its_owner_alone(path):
    path.touch(0o644)
    with TopologyStore(path, "test") as store:
        store.save([mix(0)], NOW)
        modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
    assert modes[path.name] == 0o600
    assert set(modes.values()) == {0o600}


def test_networks_in_one_file_do_not_touch_each_other(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0)], NOW)
    with TopologyStore(path, "other") as store:
        assert store.load(NOW).descriptors == ()
        store.save([mix(1, network_id="other")], NOW)
        store.save([], NOW)
        assert [hint.identity_key for hint in store.bootstrap_hints()] == [
            MIXES[1].identity_key,
            MIXES[1].identity_key,
        ]
    assert loaded(path) == {mix(0)}


# -- hints -------------------------------------------------------------------------------


def test_hints_outlive_the_descriptors(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0, lasts=60)], NOW)
        store.save([], NOW + 60)
    with TopologyStore(path, "test") as store:
        assert store.load(NOW + 10**8).descriptors == ()
        assert store.bootstrap_hints() == [
            BootstrapHint(MIXES[0].identity_key, Endpoint("2001:db8::7", 4500), NOW),
            BootstrapHint(MIXES[0].identity_key, Endpoint("198.51.100.7", 4500), NOW),
        ]


def test_hints_follow_a_node_that_moved_and_name_the_latest_first(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0), mix(1)], NOW)
        store.save([mix(0, sequence=2, port=5000), mix(1)], NOW + 5)
        hints = store.bootstrap_hints()
    assert [(h.identity_key, h.endpoint.port, h.last_seen) for h in hints] == [
        (MIXES[0].identity_key, 5000, NOW + 5),
        (MIXES[0].identity_key, 5000, NOW + 5),
        (MIXES[1].identity_key, 4500, NOW),
        (MIXES[1].identity_key, 4500, NOW),
    ]


def test_hints_are_bounded_and_the_oldest_give_way(path, monkeypatch):
    monkeypatch.setattr(topology_store, "MAX_HINTS", 4)
    with TopologyStore(path, "test") as store:
        for n in range(5):
            store.save([mix(n)], NOW + n)
        owners = [hint.identity_key for hint in store.bootstrap_hints()]
    assert owners == [MIXES[n].identity_key for n in (4, 4, 3, 3)]


def test_nodes_that_never_answered_push_out_no_hint(path, monkeypatch):
    monkeypatch.setattr(topology_store, "MAX_HINTS", 4)
    honest, flood = [mix(0), mix(1)], [mix(n) for n in range(2, 9)]
    with TopologyStore(path, "test") as store:
        store.save(honest, NOW)
        silent = {descriptor.node_id for descriptor in flood}
        assert store.save([*honest, *flood], NOW + 5, never_heard=silent) == len(flood)
        owners = {hint.identity_key for hint in store.bootstrap_hints()}
    assert owners == {descriptor.identity_key for descriptor in honest}
    assert loaded(path) == {*honest, *flood}


# -- what the disk may do to it -----------------------------------------------------------


def test_expired_and_altered_rows_are_not_loaded(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0), mix(1, lasts=60), mix(2), mix(3), mix(4)], NOW)
    with closing(sqlite3.connect(path)) as database, database:
        for change, n in (
            ("encoded = CAST('text' AS TEXT)", 2),
            ("encoded = CAST(X'ff' AS TEXT)", 3),
            ("node_id = X'00'", 4),
        ):
            database.execute(
                f"UPDATE descriptors SET {change} WHERE node_id = ?", (MIXES[n].node_id,)
            )
    with TopologyStore(path, "test") as store:
        found = store.load(NOW + 60)
        assert found.descriptors == (mix(0),)
        assert found.unusable == 4
        store.save(found.descriptors, NOW + 60)
    assert loaded(path) == {mix(0)}


@pytest.mark.slow
def test_flipped_bytes_never_load_as_something_else(path):
    table = {mix(n) for n in range(10)}
    with TopologyStore(path, "test") as store:
        store.save(table, NOW)
    whole = path.read_bytes()
    rng = Random(5)
    for round_number in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 30))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        place = path.parent / str(round_number)
        place.mkdir()
        (place / "t").write_bytes(damaged)
        try:
            with TopologyStore(place / "t", "test") as store:
                assert set(store.load(NOW).descriptors) <= table
                assert len(store.bootstrap_hints()) <= 20
                store.save(table, NOW)
        except ConfigurationError:
            # The bytes that say whose file it is: it is left as it was.
            assert (place / "t").read_bytes() == bytes(damaged)
            continue
        for aside in store.set_aside:
            assert aside.read_bytes() == bytes(damaged)
        assert loaded(place / "t") == table


@pytest.mark.parametrize("size", [15, 16, 99, 100, 1000, 4095, 4096, 9000])
def test_truncated_file_is_set_aside_and_the_store_goes_on(path, size):
    with TopologyStore(path, "test") as store:
        store.save([mix(n) for n in range(10)], NOW)
    path.write_bytes(path.read_bytes()[:size])
    damaged = path.read_bytes()
    with TopologyStore(path, "test") as store:
        assert [aside.name for aside in store.set_aside] == ["topology.sqlite.damaged-1"]
        assert store.set_aside[0].read_bytes() == damaged
        store.save([mix(0)], NOW)
    assert loaded(path) == {mix(0)}


def test_readable_rows_of_a_damaged_file_are_carried_over(path):
    table = {mix(n) for n in range(40)}
    with TopologyStore(path, "test") as store:
        store.save(table, NOW)
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    with TopologyStore(path, "test") as store:
        assert len(store.set_aside) == 1
        kept = set(store.load(NOW).descriptors)
        hints = store.bootstrap_hints()
    assert kept <= table
    assert kept or hints
    assert loaded(path) == kept


def test_schema_whose_text_is_damaged_is_set_aside(path):
    """SQLite quotes that text in its error, and sqlite3 cannot decode it."""
    with TopologyStore(path, "test") as store:
        store.save([mix(0)], NOW)
    whole = path.read_bytes()
    end = whole.rindex(b"WITHOUT ROWID") + len(b"WITHOUT ROWID")
    for place in (whole.index(b"CREATE TABLE descriptors"), end - 2, end - 1):
        path.write_bytes(whole[:place] + b"\xff\x04" + whole[place + 2 :])
        with TopologyStore(path, "test") as store:
            store.save([mix(0)], NOW)
        assert loaded(path) == {mix(0)}


def test_second_damaged_file_gets_a_name_of_its_own(path):
    for _ in range(2):
        path.write_bytes(b"this is no database" * 100)
        TopologyStore(path, "test").close()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "topology.sqlite",
        "topology.sqlite.damaged-1",
        "topology.sqlite.damaged-2",
    ]


def test_lost_tables_are_made_anew(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0)], NOW)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE hints")
    with TopologyStore(path, "test") as store:
        assert len(store.set_aside) == 1
        assert store.load(NOW).descriptors == (mix(0),)


def test_file_damaged_while_in_use_is_rebuilt_from_the_table(path, monkeypatch):
    opened = []
    connect = sqlite3.connect

    def recorded(*args, **options):
        opened.append(connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    table = [mix(n) for n in range(20)]
    with TopologyStore(path, "test") as store:
        store.save(table, NOW)
        # Without a page cache the next save reads the damage.
        opened[0].execute("PRAGMA cache_size = 0")
        opened[0].execute("PRAGMA shrink_memory")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        store.save([*table[1:], mix(30)], NOW)
        assert len(store.set_aside) == 1
    assert loaded(path) == {*table[1:], mix(30)}


def test_other_programs_file_is_left_alone(path):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE places (url TEXT)")
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        TopologyStore(path, "test")
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_newer_schema_is_left_alone(path):
    TopologyStore(path, "test").close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="schema 2"):
        TopologyStore(path, "test")
    assert path.read_bytes() == before


def test_file_in_use_by_another_node_is_refused(path):
    with TopologyStore(path, "test") as store:
        store.save([mix(0)], NOW)
        with pytest.raises(ConfigurationError, match="in use"):
            TopologyStore(path, "test")
    assert loaded(path) == {mix(0)}


def test_missing_directory_is_a_backend_error(tmp_path):
    with pytest.raises(BackendError, match="topology store"):
        TopologyStore(tmp_path / "absent" / "topology.sqlite", "test")


SAVE_FOR_EVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from overlay.addresses import Endpoint
from overlay.dht.topology_store import TopologyStore
store = TopologyStore(Path(sys.argv[1]), "test")
generation = 0
while True:
    generation += 1
    store.save(
        [
            SimpleNamespace(
                node_id=bytes([n]) * 20,
                identity_key=bytes([n]) * 32,
                endpoints=(Endpoint("198.51.100.7", 4500),),
                encoded=generation.to_bytes(4, "big") * 200,
            )
            for n in range(50)
        ],
        generation,
    )
    if generation == 3:
        print("saving", flush=True)
"""


@pytest.mark.slow
def test_kill_during_a_save_leaves_one_whole_generation(path):
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(path)], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        with TopologyStore(path, "test") as store:
            assert not store.set_aside
            assert store.load(NOW).unusable == 50
            assert len(store.bootstrap_hints()) == 50
        with closing(sqlite3.connect(path)) as database:
            saved = database.execute("SELECT encoded FROM descriptors").fetchall()
        assert len(saved) == 50
        assert len({encoded[:4] for (encoded,) in saved}) == 1
