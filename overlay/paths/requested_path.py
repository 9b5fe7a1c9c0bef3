"""One requested path as a value; :mod:`overlay.paths.paths` changes it."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from overlay.addresses import InnerAddress, IpNetwork, NodeId
from overlay.errors import OverlayError, PathError
from overlay.selection.selector import MixPath

__all__ = [
    "PathState",
    "PathTerms",
    "RequestedPath",
    "Standby",
    "lent_address",
    "of_version",
]


_LOOK_AGAIN_S = 0.25
"""Interval of attempts while a request waits until this node knows enough Mix-nodes."""


class PathState(enum.Enum):
    """The states of a requested path, in words for the user."""

    OPENING = "opening"
    OPEN = "open"
    REBUILDING = "rebuilding"
    CLOSING = "closing"
    """Closed, but the host has not released the destination yet."""


@dataclass(frozen=True, slots=True)
class PathTerms:
    """The parameters of a path, which remain after the process that opened it has ended.

    Attributes:
        destination: a host or a prefix.
        hops: Mix-nodes, the exit included.
        strategy: name of the path selection strategy.
        via: NodeIds of the first hops, in order.
        both_versions: whether the other IP version is blocked while the path exists.
    """

    destination: IpNetwork
    hops: int
    strategy: str
    via: tuple[NodeId, ...] = ()
    both_versions: bool = False


@dataclass(slots=True)
class Standby:
    """The circuit that takes over from a path's circuit; ``retry_at`` in Unix seconds."""

    circuit: int | None = None
    mix_path: MixPath | None = None
    ready: bool = False
    failures: int = 0
    retry_at: float = math.inf


@dataclass(slots=True, eq=False)
class RequestedPath:
    """One requested path; only :class:`Paths` changes it.

    ``held`` tells whether it has an owner: a program or a command that requested it. A path without
    an owner was left by an earlier process, or by a program that has ended. The next request for
    its destination takes it over. ``served`` tells whether it ever carried packets. ``companions``
    are the paths of the same request, this one included. ``failures`` counts the consecutive
    circuits that could not be opened, ``fleeting`` those that were lost soon after they opened.
    ``takeovers`` counts the standby circuits that replaced a broken one. ``hasty`` counts the
    consecutive ones that did so soon after ``served_since``, when the broken one began to serve.
    ``trouble`` is a clause that says why the last circuit ended or could not be opened. ``settled``
    tells whether the last request for the path has an answer: it is open, or ``error`` says why.
    Until ``patient_until``, a topology table that allows no path is no failure. ``waits`` tells
    whether the path has no circuit yet for this reason.
    """

    number: int
    terms: PathTerms
    requested_at: float
    state: PathState = PathState.OPENING
    held: bool = True
    served: bool = False
    permanent: bool = False
    companions: list[RequestedPath] = field(default_factory=list)
    circuit: int | None = None
    mix_path: MixPath | None = None
    inner_addresses: tuple[InnerAddress, ...] = ()
    opened_at: float | None = None
    failures: int = 0
    fleeting: int = 0
    takeovers: int = 0
    hasty: int = 0
    served_since: float = -math.inf
    trouble: str = ""
    avoid: frozenset[NodeId] = frozenset()
    retry_at: float = math.inf
    error: OverlayError | None = None
    standby: Standby = field(default_factory=Standby)
    settled: bool = False
    patient_until: float = -math.inf
    waits: bool = False

    def look_again_later(self, now: float) -> None:
        """Try again soon, because the topology table may allow the path then."""
        self.retry_at = now + _LOOK_AGAIN_S

    def end_patience(self) -> None:
        """Treat a topology table without a path as a failure from now on."""
        self.patient_until, self.waits = -math.inf, False

    @property
    def destination(self) -> IpNetwork:
        """The destination of its packets."""
        return self.terms.destination

    @property
    def hops(self) -> int:
        """Number of Mix-nodes of its circuits."""
        return self.terms.hops

    @property
    def strategy(self) -> str:
        """Name of its path selection strategy."""
        return self.terms.strategy

    @property
    def via(self) -> tuple[NodeId, ...]:
        """The first hops that the user fixed."""
        return self.terms.via

    @property
    def carried_address(self) -> InnerAddress | None:
        """The inner address of the destination's IP version."""
        return self.address_in(self.inner_addresses)

    def address_in(self, addresses: Iterable[InnerAddress]) -> InnerAddress | None:
        """Return the first of some addresses that has the destination's IP version."""
        return of_version(addresses, self.destination.version)

    def accept(self, terms: PathTerms) -> bool:
        """Take the terms of a request that takes the path over.

        Returns:
            Whether a circuit of the former terms serves the new ones too.
        """
        before = self.terms
        # An existing block stays, because taking a path over must not release anything.
        self.terms = replace(terms, both_versions=terms.both_versions or before.both_versions)
        self.held, self.error, self.failures = True, None, 0
        return (terms.hops, terms.strategy, terms.via) == (before.hops, before.strategy, before.via)


def of_version(addresses: Iterable[InnerAddress], version: int) -> InnerAddress | None:
    """Return the first address of IP version 4 or 6."""
    size = 4 if version == 4 else 16
    return next((address for address in addresses if len(address) == size), None)


def lent_address(addresses: Iterable[InnerAddress], version: int) -> InnerAddress:
    """Return the address of IP version 4 or 6 that the exit lent.

    Raises:
        PathError: the exit lent none.
    """
    address = of_version(addresses, version)
    if address is None:
        raise PathError("the exit lent no address of this family.")
    return address
