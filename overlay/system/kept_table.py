"""Compare a packet filter table with the kernel's, and restore it if another program changed it."""

from __future__ import annotations

from overlay.system.packet_filter import FilterTable, PacketFilter

__all__ = ["KeptTable"]


class KeptTable:
    """One packet filter table; it remembers the content that was installed last."""

    def __init__(self, packet_filter: PacketFilter) -> None:
        self._filter = packet_filter
        self._wanted: FilterTable | None = None
        self._fingerprint: bytes | None = None

    def install(self, table: FilterTable) -> None:
        """Install a table, or replace the one with the same name.

        Raises:
            BackendError: the kernel or the tool refused.
        """
        # Clear the fingerprint first. If a step fails, :meth:`intact` is false, and the next repair
        # installs the table again.
        self._wanted, self._fingerprint = table, None
        self._filter.replace(table)
        self._fingerprint = self._filter.fingerprint(table.name)

    def forget(self) -> None:
        """Stop keeping the table; the caller removes it."""
        self._wanted = self._fingerprint = None

    @property
    def installed(self) -> bool:
        """Whether this process has installed a table, or tried to."""
        return self._wanted is not None

    def intact(self) -> bool:
        """Tell whether the kernel's table is unchanged, or none was installed.

        Raises:
            BackendError: the table could not be read.
        """
        if self._wanted is None:
            return True
        found = self._filter.fingerprint(self._wanted.name)
        return found is not None and found == self._fingerprint

    def repair(self) -> bool:
        """Install the table again unless it is intact; return whether that was necessary.

        Raises:
            BackendError: the kernel or the tool refused.
        """
        if self._wanted is None or self.intact():
            return False
        self.install(self._wanted)
        return True
