"""Values that must not reach a log, a traceback or a table by accident.

A log of every relay, read side by side by an adversary, must not link two parties.
So whatever names a peer, a destination or a circuit travels through errors and logs
as :class:`Sensitive`, and key material lives in :class:`SecretBytes`.
"""

from __future__ import annotations

import hmac
from typing import Final, Generic, TypeVar

__all__ = ["SCRUBBED", "SecretBytes", "Sensitive"]

SCRUBBED: Final = "[scrubbed]"

T = TypeVar("T")


class Sensitive(Generic[T]):
    """Wrap a value so that printing it shows ``[scrubbed]``; :meth:`reveal` is the only way in."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the wrapped value; every call is a decision to show it to someone."""
        return self._value

    def __repr__(self) -> str:
        return SCRUBBED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(SCRUBBED, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sensitive) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash((Sensitive, self._value))


class SecretBytes:
    """Key material: its ``repr`` shows only its length, and it compares in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves, for the one call into a cipher that needs them."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        # Secrets are no dictionary keys: a hash would be a short fingerprint of them.
        raise TypeError("SecretBytes cannot be hashed")

    def __repr__(self) -> str:
        return f"SecretBytes({len(self._value)} bytes)"
