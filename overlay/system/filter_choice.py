"""Which packet filter this host offers, and what an earlier process left in the other one.

The packages of a host change between two runs, and with them the filter that a node finds. What
was set with the other filter is taken over: its notes are read, and its table goes as soon as a
table of the same name stands in the chosen filter, or when that table is removed. ::

    set with iptables ──notes──> set with nftables ──> iptables' chains removed
"""

from __future__ import annotations

import os
from typing import Final

from overlay.errors import BackendError
from overlay.system.failures import privilege_remedy
from overlay.system.iptables import Iptables
from overlay.system.nftables import Nftables
from overlay.system.packet_filter import FilterTable, PacketFilter
from overlay.system.programs import find_program

__all__ = ["ChosenFilter", "LaterFilter", "chosen_filter", "find_packet_filter"]


class ChosenFilter:
    """Implements ``PacketFilter`` with one filter; removes tables of these names from another."""

    def __init__(self, chosen: PacketFilter, other: PacketFilter) -> None:
        """Prepare; ``other`` is never given a table."""
        self.chosen = chosen
        self._other = other
        self.clears_flow_labels = chosen.clears_flow_labels

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        self.chosen.replace(table)
        # Last, so that nothing opens in between.
        self._remove_left(table.name)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        self.chosen.remove(name)
        self._remove_left(name)

    def notes(self, name: str) -> tuple[str, ...] | None:
        """Return the notes that both filters keep with a table, or None if neither has it."""
        # A process that was killed while it changed filters leaves the table in both.
        found = [notes for each in self._both() if (notes := each.notes(name)) is not None]
        return tuple(dict.fromkeys(note for notes in found for note in notes)) if found else None

    def fingerprint(self, name: str) -> bytes | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        return self.chosen.fingerprint(name)

    def counted(self, name: str) -> dict[int, int] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        return self.chosen.counted(name)

    def _remove_left(self, name: str) -> None:
        if self._other.fingerprint(name) is not None:
            self._other.remove(name)

    def _both(self) -> tuple[PacketFilter, PacketFilter]:
        return self.chosen, self._other


class LaterFilter:
    """Implements ``PacketFilter`` with the host's, which is sought until it is found.

    The programs of the packet filter may be missing for a moment, as during an upgrade. Other
    walls of a guard stand meanwhile, and what an earlier process left is read without programs.
    """

    clears_flow_labels = False

    def __init__(self) -> None:
        """Prepare; nothing is sought yet."""
        self._found: PacketFilter | None = None

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        if self._found is None:
            self._found = find_packet_filter()
        self._found.replace(table)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        left = ChosenFilter(Nftables(), Iptables())  # neither removes what is not there
        (self._found or left).remove(name)

    def notes(self, name: str) -> tuple[str, ...] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        return (self._found or ChosenFilter(Nftables(), Iptables())).notes(name)

    def fingerprint(self, name: str) -> bytes | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        return self._found.fingerprint(name) if self._found is not None else None

    def counted(self, name: str) -> dict[int, int] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        return self._found.counted(name) if self._found is not None else None


def find_packet_filter() -> ChosenFilter:
    """Return nftables where the kernel takes it for both IP versions, else legacy iptables.

    What was found once holds for the process, because all parts of a node must use the same one.

    Raises:
        BackendError: neither works; without one, no destination can be guarded.
    """
    place = (os.stat("/proc/thread-self/ns/net").st_ino, os.environ.get("PATH"))
    if place not in _found:
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        _found[place] = _look()
    return _found[place]


_found: dict[tuple[int, str | None], ChosenFilter] = {}
"""By network namespace and search path. Nothing is kept when neither works."""

_MOST_FOUND: Final = 64


def _look() -> ChosenFilter:
    nftables, iptables = Nftables(), Iptables()
    if find_program("nft") is not None and nftables.usable():
        return ChosenFilter(nftables, iptables)
    if iptables.usable():
        return ChosenFilter(iptables, nftables)
    if find_program("nft") is None and find_program("iptables-legacy") is None:
        raise BackendError(
            "setting the packet filter failed (neither nft nor iptables-legacy is installed): "
            "install the package nftables."
        )
    raise BackendError(
        "no packet filter works here (the kernel took rules neither of nft nor of iptables-legacy "
        f"and ip6tables-legacy): {privilege_remedy()}."
    )


def chosen_filter(named: PacketFilter | None) -> PacketFilter:
    """Return the filter that a caller named, or the host's, with what the other one may hold.

    Raises:
        BackendError: none was named, and the host has none.
    """
    if named is None:
        return find_packet_filter()
    if isinstance(named, Nftables):
        return ChosenFilter(named, Iptables())
    return ChosenFilter(named, Nftables()) if isinstance(named, Iptables) else named
