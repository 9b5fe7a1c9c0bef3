"""The report of everything that a userspace engine holds."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.ipsec.interface import SecurityAssociation

__all__ = ["EngineContents"]


@dataclass(frozen=True, slots=True)
class EngineContents:
    """What an engine holds, as ``ip xfrm`` and ``ip address`` show it for the kernel.

    ``associations`` are the installed SAs with their keys, so never log this value. ``ciphers`` is
    the number of onion SAs that hold a cipher, at most ``MAX_WARM``. ``steps`` is the number of
    compiled steps, at most ``MAX_STEPS``. ``compiled_links`` and ``policy_links`` are the numbers
    of links that the compiled steps and the policies name.
    """

    associations: tuple[SecurityAssociation, ...]
    local_addresses: tuple[bytes, ...]
    policies: int
    policy_links: int
    ciphers: int
    compiled_links: int
    steps: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is installed and nothing is kept."""
        return not (
            self.associations
            or self.local_addresses
            or self.policies
            or self.policy_links
            or self.ciphers
            or self.compiled_links
            or self.steps
        )
