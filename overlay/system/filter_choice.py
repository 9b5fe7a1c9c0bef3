"""Choose the packet filter of this host, and take over tables that are left in the other one.

Packages of a host may change between two runs, so a node may find another filter than before. A
table in the other filter is taken over, so its notes are read. It is removed as soon as the chosen
filter has a table of the same name, or when that table is removed. ::

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
    """A ``PacketFilter`` that uses one filter and removes tables of the same names from another."""

    def __init__(self, chosen: PacketFilter, other: PacketFilter) -> None:
        """Prepare; no table is installed in ``other``."""
        self.chosen = chosen
        self._other = other
        self.clears_flow_labels = chosen.clears_flow_labels

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        self.chosen.replace(table)
        # The old table is removed last, so that one of them always filters.
        self._remove_left(table.name)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        self.chosen.remove(name)
        self._remove_left(name)

    def notes(self, name: str) -> tuple[str, ...] | None:
        """Return the notes of a table in both filters, or None if neither has the table."""
        # If a process is killed while it changes from one filter to the other, both have the table.
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
    """A ``PacketFilter`` that searches for the host's filter when it is first needed.

    The programs of the packet filter may be missing for a moment, for example during an upgrade.
    Meanwhile the other mechanisms of the kill switch work, and tables that an earlier process left
    can be read without these programs.
    """

    clears_flow_labels = False

    def __init__(self) -> None:
        """Prepare; nothing is searched yet."""
        self._found: PacketFilter | None = None

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        if self._found is None:
            self._found = find_packet_filter()
        self._found.replace(table)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        left = ChosenFilter(Nftables(), Iptables())  # no error if a table does not exist
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
    """Return nftables if the kernel supports it for both IP versions, else legacy iptables.

    The result is kept for the process, because all parts of a node must use the same filter.

    Raises:
        BackendError: neither works; then no destination can be protected.
    """
    place = (os.stat("/proc/thread-self/ns/net").st_ino, os.environ.get("PATH"))
    if place not in _found:
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        _found[place] = _look()
    return _found[place]


_found: dict[tuple[int, str | None], ChosenFilter] = {}
"""Results by network namespace and search path. A failure is not kept."""

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
        "no packet filter works here (the kernel refused rules of nft and of iptables-legacy "
        f"and ip6tables-legacy): {privilege_remedy()}."
    )


def chosen_filter(named: PacketFilter | None) -> PacketFilter:
    """Return the named filter, or the host's if it is None, combined with the other one.

    Raises:
        BackendError: no filter was named, and the host has none.
    """
    if named is None:
        return find_packet_filter()
    if isinstance(named, Nftables):
        return ChosenFilter(named, Iptables())
    return ChosenFilter(named, Nftables()) if isinstance(named, Iptables) else named
