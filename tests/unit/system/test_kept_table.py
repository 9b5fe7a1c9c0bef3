import pytest

from overlay.errors import BackendError
from overlay.system.kept_table import KeptTable
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict

TABLE = FilterTable("guard-1", 7, (Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP),))


class Filter:
    """A packet filter whose tables another program may remove or change."""

    def __init__(self):
        self.tables, self.refuses, self.at_once = {}, False, lambda: None

    def replace(self, table):
        if self.refuses:
            raise BackendError("setting the packet filter failed (Operation not permitted).")
        self.tables[table.name] = repr(table).encode()
        self.at_once()

    def fingerprint(self, name):
        return self.tables.get(name)


def test_a_table_that_is_removed_or_changed_is_put_back():
    packet_filter = Filter()
    kept = KeptTable(packet_filter)
    assert kept.intact(), "nothing is wanted"
    kept.install(TABLE)
    assert kept.intact()
    assert not kept.repair()
    for tables in ({}, {TABLE.name: b"accept"}):
        packet_filter.tables = tables
        assert not kept.intact()
        assert kept.repair()
        assert kept.intact()


def test_a_table_that_is_removed_as_soon_as_it_stands_is_not_taken_for_whole():
    packet_filter = Filter()
    kept = KeptTable(packet_filter)
    packet_filter.at_once = packet_filter.tables.clear
    kept.install(TABLE)
    assert not kept.intact()
    packet_filter.at_once = lambda: None
    assert kept.repair()
    assert kept.intact()


def test_a_refused_change_is_tried_again():
    packet_filter = Filter()
    kept = KeptTable(packet_filter)
    kept.install(TABLE)
    packet_filter.refuses = True
    changed = FilterTable(TABLE.name, 8, TABLE.rules)
    with pytest.raises(BackendError):
        kept.install(changed)
    assert not kept.intact()
    packet_filter.refuses = False
    assert kept.repair()
    assert packet_filter.tables[TABLE.name] == repr(changed).encode()


def test_a_table_that_is_forgotten_stays_away():
    packet_filter = Filter()
    kept = KeptTable(packet_filter)
    kept.install(TABLE)
    kept.forget()
    packet_filter.tables.clear()
    assert not kept.repair()
    assert packet_filter.tables == {}
