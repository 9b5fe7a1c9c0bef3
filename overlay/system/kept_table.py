"""A packet filter table that is compared with what the kernel holds, and put back."""

from __future__ import annotations

from overlay.system.packet_filter import FilterTable, PacketFilter

__all__ = ["KeptTable"]


class KeptTable:
    """One table of an owner; it knows what was installed last."""

    def __init__(self, packet_filter: PacketFilter) -> None:
        self._filter = packet_filter
        self._wanted: FilterTable | None = None
        self._fingerprint: bytes | None = None

    def install(self, table: FilterTable) -> None:
        """Install a table in place of the one of that name.

        Raises:
            BackendError: the kernel or the tool refused.
        """
        # Until the end, :meth:`intact` is false: whatever fails, the next repair begins anew.
        self._wanted, self._fingerprint = table, None
        self._filter.replace(table)
        self._fingerprint = self._filter.fingerprint(table.name)

    def forget(self) -> None:
        """Let the table go; its owner removes it."""
        self._wanted = self._fingerprint = None

    @property
    def installed(self) -> bool:
        """Whether this process wants a table to be there."""
        return self._wanted is not None

    def intact(self) -> bool:
        """Tell whether the kernel holds what was installed (or nothing was).

        Raises:
            BackendError: the kernel did not tell.
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
