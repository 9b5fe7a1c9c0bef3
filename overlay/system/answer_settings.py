"""Kernel settings that let a guarded host answer what others begin, and keep quiet about circuits.

::

    fwmark_reflect        ICMP and RST of the kernel get the mark of the packet that caused them
    tcp_fwmark_accept     an accepted connection gets the mark of its SYN
    src_valid_mark        reverse-path checks (rp_filter) look a packet up with its mark
    arp_ignore = 3        ARP does not answer for addresses of scope "host", as inner ones have

The former values are notes in the guard's filter table (``overlay.system.noted_settings``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.system.kernel_settings import KernelSetting, change_setting, parse_note, read_setting
from overlay.system.noted_settings import noted, restore_noted
from overlay.system.packet_filter import PacketFilter

__all__ = ["AnswerSettings"]

_MARKS: Final[tuple[KernelSetting, ...]] = (
    ("net/ipv4/fwmark_reflect", "1"),
    ("net/ipv6/fwmark_reflect", "1"),
    ("net/ipv4/tcp_fwmark_accept", "1"),
    ("net/ipv4/conf/all/src_valid_mark", "1"),
)
_DEVICES: Final = Path("/proc/sys/net/ipv4/conf")
_LONGEST_NOTE: Final = 120

_log = EventLog(__name__)


class AnswerSettings:
    """What one guard changes, and what it was before."""

    def __init__(self, packet_filter: PacketFilter, name: str) -> None:
        """Prepare; ``name`` is the guard's filter table."""
        self._filter = packet_filter
        self._name = name
        self._notes: dict[str, str] | None = None
        self._warned = False

    def notes(self) -> tuple[str, ...]:
        """Return what to note in the table: the values from before the first change."""
        if self._notes is None:  # a killed process may have changed them already
            left = self._filter.notes(self._name) or ()
            self._notes = dict(found for note in left if (found := parse_note(note)) is not None)
        wanted = [setting for setting in _wanted() if setting[0] not in self._notes]
        for note in noted(wanted):
            found = parse_note(note)
            if found is not None and len(note) <= _LONGEST_NOTE:
                self._notes[found[0]] = found[1]
        return tuple(f"{name}={value}" for name, value in self._notes.items())

    def apply(self) -> None:
        """Make the settings. Where the host forbids it, answers to protected hosts are missing.

        That is logged once and no error, because the guard itself works without.
        """
        for name, value in _wanted():
            try:
                change_setting(name, value)
            except BackendError as error:
                if not self._warned:
                    _log.warning("guard.answers_are_incomplete", reason=Word(error))
                self._warned = True

    def differ(self) -> bool:
        """Tell whether the host has other values than :meth:`apply` could make."""
        if self._warned:
            return False
        return any(read_setting(name) != value for name, value in _wanted())

    def restore(self) -> None:
        """Give all settings their former values, and remove the table.

        Raises:
            BackendError: the kernel refused.
        """
        if self._filter.notes(self._name) is None:  # another program removed the notes
            for name, value in (self._notes or {}).items():
                if read_setting(name) is not None:
                    change_setting(name, value)
            self._filter.remove(self._name)
        else:
            restore_noted(self._filter, self._name)
        self._notes = None


def _wanted() -> list[KernelSetting]:
    """Return the settings that this kernel has; they change as devices come and go."""
    wanted = [setting for setting in _MARKS if read_setting(setting[0]) is not None]
    if read_setting("net/ipv4/conf/all/arp_ignore") != "0":
        return wanted  # the greater of both values counts, and all others keep quiet as well
    try:
        devices = sorted(each.name for each in _DEVICES.iterdir())
    except OSError:
        return wanted
    for device in devices:
        name = f"net/ipv4/conf/{device}/arp_ignore"
        if device not in ("all", "lo") and read_setting(name) in ("0", "3"):
            wanted.append((name, "3"))
    return wanted
