"""Restore kernel settings, even after a crash.

The former values are notes in the packet filter table that is installed together with the
settings. Both disappear with the network namespace, so a new process finds both or neither.
"""

from __future__ import annotations

from collections.abc import Iterable

from overlay.system.kernel_settings import (
    KernelSetting,
    change_setting,
    parse_note,
    read_setting,
)
from overlay.system.packet_filter import PacketFilter
from overlay.system.router_advertisements import give_back_inherited

__all__ = ["noted", "restore_noted"]


def noted(settings: Iterable[KernelSetting]) -> tuple[str, ...]:
    """Return a note with the current value of each setting; call it before changing them."""
    before = [(name, read_setting(name)) for name, _ in settings]
    return tuple(f"{name}={value}" for name, value in before if value is not None)


def restore_noted(packet_filter: PacketFilter, name: str) -> None:
    """Restore the settings in a table's notes, last changed first; then remove the table.

    Raises:
        BackendError: a setting could not be written, or the table could not be removed.
    """
    notes = packet_filter.notes(name)
    if notes is None:
        return
    for note in reversed(notes):
        setting = parse_note(note)
        if setting is not None and read_setting(setting[0]) is not None:
            change_setting(*setting)
    give_back_inherited(notes)
    packet_filter.remove(name)
