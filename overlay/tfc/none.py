"""The ``none`` strategy: no padding, no dummy packets, no cost and no protection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from overlay.settings import Settings
from overlay.tfc.strategy import LinkHandle

__all__ = ["NoTfc", "NoTfcSettings"]


@dataclass(frozen=True, slots=True)
class NoTfcSettings(Settings):
    """The ``none`` strategy has no settings."""


class NoTfc:
    """Do not change the traffic of any link (implements ``TfcStrategy``)."""

    settings_type: ClassVar[type[NoTfcSettings]] = NoTfcSettings

    def __init__(self, settings: NoTfcSettings, rng: Random) -> None:
        del settings, rng  # nothing to configure, nothing to draw

    @classmethod
    def sends_dummies(cls, settings: NoTfcSettings) -> bool:
        """Return False."""
        del settings
        return False

    def pad_to(self, link_mtu: int) -> int:  # noqa: ARG002 - the Protocol's signature
        """Return 0: no padding."""
        return 0

    def link_opened(self, link: LinkHandle, now: float) -> None:
        """Do nothing."""

    def link_closed(self, link: LinkHandle) -> None:
        """Do nothing."""

    def next_deadline(self) -> float:
        """Return ``math.inf``: there is never a dummy packet to send."""
        return math.inf

    def due(self, now: float) -> Sequence[LinkHandle]:  # noqa: ARG002 - the Protocol's signature
        """Return no link."""
        return ()
