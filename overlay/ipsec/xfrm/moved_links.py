"""Keep the outbound policies of each link, and the present addresses of links that have moved.

Policies of circuits are built once, with the addresses with which their link began. In the outbound
direction, the kernel finds an SA by the addresses in the policy's template. So the policies of a
link that has moved are installed with its present addresses, whatever addresses their owner gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from overlay.ipsec.interface import PolicyDirection, SecurityPolicy, Template

__all__ = ["MovedLinks"]

K = TypeVar("K", bound=Hashable)


class MovedLinks(Generic[K]):
    """An index of outbound policies by the reqid of their outermost tunnel, which is the link's.

    Its size is bounded by the policies. The addresses of a link are removed with its last policy,
    because reqids are used again.
    """

    def __init__(self) -> None:
        self._policies: dict[int, dict[K, SecurityPolicy]] = {}
        self._moved: dict[int, tuple[bytes, bytes]] = {}

    def note(self, key: K, policy: SecurityPolicy) -> None:
        """Add a policy that was installed."""
        if policy.direction is PolicyDirection.OUT and policy.templates:
            self._policies.setdefault(policy.templates[-1].reqid, {})[key] = policy

    def forget(self, key: K, templates: tuple[Template, ...]) -> None:
        """Remove a policy."""
        reqid = templates[-1].reqid if templates else None
        if reqid is None or key not in self._policies.get(reqid, {}):
            return
        del self._policies[reqid][key]
        if not self._policies[reqid]:
            del self._policies[reqid]
            self._moved.pop(reqid, None)

    def clear(self) -> None:
        """Remove all policies."""
        self._policies.clear()
        self._moved.clear()

    def move(self, reqid: int, source: bytes, destination: bytes) -> list[SecurityPolicy]:
        """Set the (packed) addresses of a link, and return its policies with these addresses."""
        if reqid not in self._policies:
            return []
        self._moved[reqid] = source, destination
        return [self.placed(policy) for policy in self._policies[reqid].values()]

    def placed(self, policy: SecurityPolicy) -> SecurityPolicy:
        """Return a policy with the present addresses of its link."""
        if policy.direction is not PolicyDirection.OUT or not policy.templates:
            return policy
        *inner, link = policy.templates
        moved = self._moved.get(link.reqid)
        if moved is None:
            return policy
        return replace(policy, templates=(*inner, Template(*moved, link.reqid)))

    def all_placed(self, policies: Iterable[SecurityPolicy]) -> tuple[SecurityPolicy, ...]:
        """Return policies with the present addresses of their links."""
        return tuple(self.placed(each) for each in policies)
