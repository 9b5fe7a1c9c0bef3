"""Constraints on hops, and the message for a user who gets no path.

Constraints are applied in a fixed order, and each counts the nodes that it removed. So the
message tells the user which constraint to relax. No message contains the destination.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress, NodeId, version_of
from overlay.dht.descriptor import MixDescriptor, Role
from overlay.errors import NoSuitablePath
from overlay.hop_limit import MAX_HOPS
from overlay.plurals import counted
from overlay.selection.selector import PathRequest, TopologyView
from overlay.special_networks import forbidden_network

__all__ = [
    "Constraint",
    "Sifted",
    "check_hops",
    "common_constraints",
    "exit_constraints",
    "first_hop_constraint",
    "is_connected",
    "named_hops",
    "no_path",
    "relay_constraints",
    "sift",
    "versions_of",
]


_OPERATOR_BITS: Final = {4: 16, 6: 32}
"""Length in bits of prefixes that one operator often runs, by IP version. The nodes in a larger
destination belong to many operators; a path must not lack all of them."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition for a hop, and texts for one node and for many nodes that do not meet it.

    ``about_policy`` is set if the condition is about the exit policy and the destination.
    """

    one: str
    many: str
    holds: Callable[[MixDescriptor], bool]
    about_policy: bool = False


@dataclass(frozen=True, slots=True)
class Sifted:
    """The Mix-nodes that remain, and the number that each constraint removed, in order."""

    remaining: tuple[MixDescriptor, ...]
    removed: tuple[tuple[Constraint, int], ...] = ()


def check_hops(request: PathRequest) -> None:
    """Check the number of hops.

    Raises:
        ValueError: it is not between 1 and ``MAX_HOPS``.
    """
    if not 1 <= request.hops <= MAX_HOPS:
        raise ValueError(f"a path has 1 to {MAX_HOPS} hops, not {request.hops}.")


def common_constraints(request: PathRequest) -> tuple[Constraint, ...]:
    """Return the constraints on every hop.

    The prefix of the source is not excluded. Otherwise it would be absent from all paths, and
    hops could infer it from many circuits.
    """
    onion, esp = request.onion_suite, request.esp_suite
    return (
        Constraint(
            "is this node itself", "are this node itself", lambda d: d.node_id != request.source
        ),
        Constraint(
            "is avoided because it failed recently",
            "are avoided because they failed recently",
            lambda d: not request.avoid or d.node_id not in request.avoid,
        ),
        Constraint(
            f"does not support onion suite {onion}",
            f"do not support onion suite {onion}",
            lambda d: d.onion_key(onion) is not None,
        ),
        Constraint(
            f"does not support ESP suite {esp}",
            f"do not support ESP suite {esp}",
            lambda d: esp in d.esp_suites,
        ),
    )


def relay_constraints(request: PathRequest) -> tuple[Constraint, ...]:
    """Return the further constraints on all hops except the last."""
    is_relay = Constraint("is no relay", "are no relays", lambda d: Role.RELAY in d.roles)
    # The destination sees what leaves the exit. As a relay it would also see the circuit, so it
    # could match both by timing, and the first hop knows the source.
    is_apart = Constraint(
        "is a part of the destination",
        "are parts of the destination",
        lambda d: not _is_within(d, request),
    )
    if request.exit is None:
        return is_relay, is_apart
    is_exit = Constraint(
        "is the exit that was asked for",
        "are the exit that was asked for",
        lambda d: d.node_id != request.exit,
    )
    return is_relay, is_apart, is_exit


def exit_constraints(request: PathRequest) -> tuple[Constraint, ...]:
    """Return the further constraints on the last hop."""
    destination = request.destination
    named = (
        ()
        if request.exit is None
        else (
            Constraint(
                "is not the exit that was asked for",
                "are not the exit that was asked for",
                lambda d: d.node_id == request.exit,
            ),
        )
    )
    return (
        *named,
        Constraint("is no exit", "are no exits", lambda d: Role.EXIT in d.roles),
        Constraint(
            f"is an exit without IPv{destination.version}",
            f"are exits without IPv{destination.version}",
            lambda d: d.exit_policy is not None and d.exit_policy.serves(destination.version),
        ),
        Constraint(
            "is an exit whose policy refuses the destination",
            "are exits whose policy refuses the destination",
            lambda d: d.exit_policy is not None and d.exit_policy.might_permit(destination),
            about_policy=True,
        ),
        Constraint(
            "is an exit that is the destination itself",
            "are exits that are the destination themselves",
            lambda d: all(each.address != destination for each in d.endpoints),
        ),
    )


def first_hop_constraint(request: PathRequest) -> Constraint:
    """Return the further constraint on the first hop: this node can send to it."""
    has = " or ".join(f"IPv{version}" for version in sorted(request.versions))
    return Constraint(
        f"is not reachable over {has}, which is all that this host has",
        f"are not reachable over {has}, which is all that this host has",
        lambda d: not request.versions.isdisjoint(versions_of(d)),
    )


def _is_within(descriptor: MixDescriptor, request: PathRequest) -> bool:
    """Tell whether a node is the destination, or in a destination of one operator's size."""
    network = request.network
    if network is None or network.prefixlen < _OPERATOR_BITS[network.version]:
        return any(each.address == request.destination for each in descriptor.endpoints)
    return any(each.address in network for each in descriptor.endpoints)


def versions_of(descriptor: MixDescriptor) -> frozenset[int]:
    """Return the IP versions of a node's endpoints."""
    return frozenset(map(version_of, descriptor.endpoints))


def is_connected(hops: Iterable[MixDescriptor], versions: frozenset[int]) -> bool:
    """Tell whether each hop has an IP version of the hop before; the first one of ``versions``."""
    for hop in hops:
        has = versions_of(hop)
        if versions.isdisjoint(has):
            return False
        versions = has
    return True


def sift(nodes: Sifted, constraints: Iterable[Constraint]) -> Sifted:
    """Apply constraints in order, each to the nodes that remain after the previous ones."""
    remaining, removed = nodes.remaining, list(nodes.removed)
    for constraint in constraints:
        before = len(remaining)
        remaining = tuple(filter(constraint.holds, remaining))
        removed.append((constraint, before - len(remaining)))
    return Sifted(remaining, tuple(removed))


def no_path(request: PathRequest, known: int, sifted: Sifted, rest: str) -> NoSuitablePath:
    """Return the error with the number of nodes per constraint; it ends with ``rest``."""
    counts = [
        counted(count, constraint.one, constraint.many)
        for constraint, count in sifted.removed
        if count
    ]
    nodes = counted(known, "known Mix-node")
    findings = "; ".join([", ".join(counts), rest] if counts else [rest])
    refused = any(count and constraint.about_policy for constraint, count in sifted.removed)
    about = _about_destination(request.destination) if refused else ""
    hops = counted(request.hops, "hop")
    message = f"no path of {hops} to the destination among {nodes}: {findings}.{about}"
    removed = tuple((constraint.many, count) for constraint, count in sifted.removed)
    return NoSuitablePath(message, known=known, removed=removed)


def named_hops(request: PathRequest, table: TopologyView) -> tuple[MixDescriptor, ...]:
    """Return the Mix-nodes that the request names for the first hops, after a check of each.

    Two hops that the user named may share a prefix. The constraint on prefixes only keeps a
    random draw from choosing two nodes of one operator.

    Raises:
        NoSuitablePath: a named node cannot be a hop; the message names its position.
    """
    hops: list[MixDescriptor] = []
    faults: list[tuple[int, str]] = []
    for position, node_id in enumerate(request.via, start=1):
        hop, fault = _named_hop(request, table, position, node_id)
        if hop is not None and fault is None:
            fault = _disconnected(request, hop, hops[-1] if hops else None)
        if fault is not None:
            faults.append((position, fault))
        if hop is not None:
            hops.append(hop)
    if faults:
        raise _bad_names(request, len(table), faults)
    return tuple(hops)


def _named_hop(
    request: PathRequest, table: TopologyView, position: int, node_id: NodeId
) -> tuple[MixDescriptor | None, str | None]:
    """Return the descriptor of the hop, or a text about what is wrong with it."""
    first_named = request.via.index(node_id) + 1
    if first_named != position:
        return None, f"is already named for hop {first_named}"
    if node_id == request.source:
        return None, "is this node itself"
    hop = table.get(node_id)
    if hop is None:
        return None, "is not known, or its descriptor has expired"
    constraints = common_constraints(request) + (
        exit_constraints(request) if position == request.hops else relay_constraints(request)
    )
    return hop, next((c.one for c in constraints if not c.holds(hop)), None)


def _disconnected(
    request: PathRequest, hop: MixDescriptor, before: MixDescriptor | None
) -> str | None:
    if before is None:
        reach = first_hop_constraint(request)
        return None if request.via[0] != hop.node_id or reach.holds(hop) else reach.one
    common = versions_of(hop) & versions_of(before)
    return None if common else "has no IP version in common with the hop before it"


def _bad_names(
    request: PathRequest, known: int, faults: Sequence[tuple[int, str]]
) -> NoSuitablePath:
    listed = ", ".join(f"hop {position} {fault}" for position, fault in faults)
    about = _about_destination(request.destination) if faults[-1][0] == request.hops else ""
    hops = counted(request.hops, "hop")
    return NoSuitablePath(
        f"the named Mix-nodes cannot form a path of {hops}: {listed}.{about}",
        known=known,
        removed=tuple(Counter(fault for _, fault in faults).items()),
    )


def _about_destination(destination: IpAddress) -> str:
    kind = forbidden_network(destination)
    if kind is None:
        return ""
    return (
        f" The destination is in a special range ({kind}), which exits refuse "
        f"unless their operator permits it by name."
    )
