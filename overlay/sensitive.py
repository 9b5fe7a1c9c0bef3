"""Wrap values that must not appear in a log, a traceback or a table by accident.

An attacker that reads the logs of all relays together must not be able to link two parties. So
values that name a peer, a destination or a circuit are :class:`Sensitive` in errors and logs, and
keys are :class:`SecretBytes`.
"""

from __future__ import annotations

import hmac
from typing import Final, Generic, TypeVar

__all__ = ["SCRUBBED", "SecretBytes", "Sensitive"]

SCRUBBED: Final = "[scrubbed]"

T = TypeVar("T")


class Sensitive(Generic[T]):
    """Wrap a value so that printing it shows ``[scrubbed]``; only :meth:`reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the wrapped value; each call needs a reason why it may be shown there."""
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
    """A secret key; its ``repr`` shows only its length, and comparisons take constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves, to pass them to a cipher."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        # A hash would be a short fingerprint of the secret, so it cannot be a dictionary key.
        raise TypeError("SecretBytes cannot be hashed")

    def __repr__(self) -> str:
        return f"SecretBytes({len(self._value)} bytes)"
