"""Which outbound policies name each link, and between which addresses a moved link goes now.

Policies of circuits are built once, with the addresses between which their link began. Outbound,
the kernel finds an SA by the addresses in the policy's template. So the policies of a link that
has moved are installed with its new addresses, whatever addresses their owner gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from overlay.ipsec.interface import PolicyDirection, SecurityPolicy, Template

__all__ = ["MovedLinks"]

K = TypeVar("K", bound=Hashable)


class MovedLinks(Generic[K]):
    """An index of outbound policies by the reqid of their outermost tunnel, the link's.

    Bounded by the policies that are noted: with the last policy of a link its addresses go, since
    reqids are used again.
    """

    def __init__(self) -> None:
        self._policies: dict[int, dict[K, SecurityPolicy]] = {}
        self._moved: dict[int, tuple[bytes, bytes]] = {}

    def note(self, key: K, policy: SecurityPolicy) -> None:
        """Remember a policy that was installed."""
        if policy.direction is PolicyDirection.OUT and policy.templates:
            self._policies.setdefault(policy.templates[-1].reqid, {})[key] = policy

    def forget(self, key: K, templates: tuple[Template, ...]) -> None:
        """Forget a policy that is removed."""
        reqid = templates[-1].reqid if templates else None
        if reqid is None or key not in self._policies.get(reqid, {}):
            return
        del self._policies[reqid][key]
        if not self._policies[reqid]:
            del self._policies[reqid]
            self._moved.pop(reqid, None)

    def clear(self) -> None:
        """Forget all."""
        self._policies.clear()
        self._moved.clear()

    def move(self, reqid: int, source: bytes, destination: bytes) -> list[SecurityPolicy]:
        """Note between which packed addresses a link sends; return its policies as they must be."""
        if reqid not in self._policies:
            return []
        self._moved[reqid] = source, destination
        return [self.placed(policy) for policy in self._policies[reqid].values()]

    def placed(self, policy: SecurityPolicy) -> SecurityPolicy:
        """Return a policy with the addresses between which its link goes now."""
        if policy.direction is not PolicyDirection.OUT or not policy.templates:
            return policy
        *inner, link = policy.templates
        moved = self._moved.get(link.reqid)
        if moved is None:
            return policy
        return replace(policy, templates=(*inner, Template(*moved, link.reqid)))

    def all_placed(self, policies: Iterable[SecurityPolicy]) -> tuple[SecurityPolicy, ...]:
        """Return policies with the addresses between which their links go now."""
        return tuple(self.placed(each) for each in policies)
