"""Kernel settings for answers to protected hosts, and for silence about circuits.

A host with the kill switch must answer traffic that protected hosts begin (docs/decisions/0035)::

    fwmark_reflect        ICMP and RST of the kernel get the mark of the packet that caused them
    tcp_fwmark_accept     an accepted connection gets the mark of its SYN
    src_valid_mark        reverse-path checks (rp_filter) look up a packet with its mark
    arp_ignore = 3        ARP does not answer for addresses of scope "host", such as inner addresses

The former values are notes in the kill switch's filter table. If another program changes a setting
meanwhile, the new value is restored at the end. It is kept if the kill switch did not change it
again.

New devices inherit ``arp_ignore`` from the setting of the device ``default``. So a note is
necessary only for a device whose former value differs from that of ``default``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.system.kernel_settings import KernelSetting, change_setting, parse_note, read_setting
from overlay.system.packet_filter import PacketFilter

__all__ = ["AnswerSettings"]

_MARKS: Final[dict[str, str]] = {
    "net/ipv4/fwmark_reflect": "1",
    "net/ipv6/fwmark_reflect": "1",
    "net/ipv4/tcp_fwmark_accept": "1",
    "net/ipv4/conf/all/src_valid_mark": "1",
}
_DEVICES: Final = Path("/proc/sys/net/ipv4/conf")
_ALL: Final = "net/ipv4/conf/all/arp_ignore"
_DEFAULT: Final = "net/ipv4/conf/default/arp_ignore"
_ANSWERS_ALL, _SILENT = "0", "3"
_MOST_NOTES: Final = 256
_LONGEST_NOTE: Final = 120

_log = EventLog(__name__)


class AnswerSettings:
    """The settings that one kill switch changes, and their former values."""

    def __init__(self, packet_filter: PacketFilter, name: str) -> None:
        """Prepare; ``name`` is the name of the kill switch's filter table."""
        self._filter = packet_filter
        self._name = name
        self._former: dict[str, str] | None = None
        self._refused: set[str] = set()

    def notes(self) -> tuple[str, ...]:
        """Return the notes for the table: the last values that other programs chose."""
        former = self._known()
        arp = _arp_settings()
        default = former.get(_DEFAULT)
        for name, value in _wanted().items():
            found = read_setting(name)
            if found is not None and found != value:
                former[name] = found
        if default is None and _DEFAULT in arp:
            former[_DEFAULT] = arp[_DEFAULT]
            former |= {name: _SILENT for name, found in arp.items() if found == _SILENT}
        elif former.get(_DEFAULT) != default:  # a device without a note had the old default
            former |= {name: default for name in arp if default and name not in former}
        self._former = {
            name: value
            for name, value in former.items()
            if name in _MARKS or name == _DEFAULT or (name in arp and value != former.get(_DEFAULT))
        }
        notes = (_note(*each) for each in self._former.items())
        return tuple(each for each in notes if len(each) <= _LONGEST_NOTE)[:_MOST_NOTES]

    def apply(self) -> None:
        """Change the settings. If the host forbids it, protected hosts get no answers.

        A refusal is logged once and is not an error, because the kill switch works without answers.
        """
        for name, value in _wanted().items():
            try:
                change_setting(name, value)
            except BackendError as error:
                if name not in self._refused and read_setting(name) is not None:
                    if not self._refused:
                        _log.warning("kill_switch.answers_are_incomplete", reason=Word(error))
                    self._refused.add(name)
            else:
                self._refused.discard(name)
        self._refused = {name for name in self._refused if read_setting(name) is not None}

    def differ(self) -> bool:
        """Tell whether a setting differs that :meth:`apply` could change."""
        return any(
            name not in self._refused and read_setting(name) != value
            for name, value in _wanted().items()
        )

    def restore(self) -> None:
        """Restore the former values unless other programs changed them; remove the table.

        Raises:
            BackendError: the kernel refused.
        """
        former = self._known()
        default = former.get(_DEFAULT)
        # ``default`` comes first, because the kernel copies its change to all devices that were
        # never set themselves.
        for name, value in sorted(former.items(), key=lambda each: each[0] != _DEFAULT):
            if read_setting(name) == _MARKS.get(name, _SILENT):
                change_setting(name, value)
        for name, found in _arp_settings().items():
            if default is not None and found == _SILENT and name not in former:
                change_setting(name, default)
        self._filter.remove(self._name)
        self._former = None
        self._refused.clear()

    def _known(self) -> dict[str, str]:
        if self._former is None:  # a killed process may have changed settings and left notes
            left = self._filter.notes(self._name) or ()
            self._former = dict(found for note in left if (found := _setting(note)) is not None)
        return self._former


def _note(name: str, value: str) -> str:
    """Return a note without the characters that tools for packet filters cannot quote."""
    return f"{quote_from_bytes(os.fsencode(name))}={value}"


def _setting(note: str) -> KernelSetting | None:
    name, separator, value = note.partition("=")
    known = os.fsdecode(unquote_to_bytes(name)) if separator else ""
    # Check the decoded name, because it is the one that is written. A device's name may contain
    # "=", at which parse_note() would split the note.
    if known not in _MARKS and not _is_arp(known):
        return None
    judged = parse_note(f"{known.replace('=', '')}={value}")
    return None if judged is None else (known, value)


def _is_arp(name: str) -> bool:
    return name.startswith("net/ipv4/conf/") and name.endswith("/arp_ignore")


def _arp_settings() -> dict[str, str]:
    """Return ``arp_ignore`` of each device; the one for new devices is first."""
    try:
        devices = sorted((each.name for each in _DEVICES.iterdir()), key=lambda n: n != "default")
    except OSError:
        return {}
    names = [f"net/ipv4/conf/{each}/arp_ignore" for each in devices if each not in ("all", "lo")]
    return {name: value for name in names if (value := read_setting(name)) is not None}


def _wanted() -> dict[str, str]:
    """Return the wanted values of settings that exist; devices may appear and disappear."""
    wanted = {name: value for name, value in _MARKS.items() if read_setting(name) is not None}
    # The kernel uses the greater value of "all" and the device, so "all" must be 0.
    if read_setting(_ALL) == _ANSWERS_ALL:
        for name, found in _arp_settings().items():
            if found in (_ANSWERS_ALL, _SILENT):
                wanted[name] = _SILENT
    return wanted
