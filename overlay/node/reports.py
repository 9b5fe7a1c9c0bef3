"""The reports of a node to its user: status, peers and paths."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from overlay import __version__
from overlay.addresses import Endpoint, IpNetwork, format_address
from overlay.apm.events import CircuitReport
from overlay.config import Configuration
from overlay.control.service import HopReport, PathReport, PeerReport, StatusReport
from overlay.dht.descriptor import MixDescriptor, Role
from overlay.exit_policy import format_exit_rules
from overlay.identity import LocalIdentity
from overlay.ipsec.mtu import inner_mtu
from overlay.ipsec.suites import Suite
from overlay.node.exposure import exposed_versions
from overlay.node.node_cores import NodeCores
from overlay.node.shells.source_kill_switch import UnprotectedDestinations
from overlay.paths.ip_versions import other_version
from overlay.paths.requested_path import RequestedPath

__all__ = ["identified", "path_report", "path_sizes", "peer_report", "status_report"]

_NO_IDENTIFIER: Final = re.compile(r"[^A-Za-z0-9]+")


# Large: one argument for each field of the report.
def status_report(
    configuration: Configuration,
    identity: LocalIdentity,
    cores: NodeCores,
    *,
    now: float,
    uptime_s: float,
    roles: frozenset[Role],
    counters: dict[str, int],
    backend_reason: str,
    missing: tuple[str, ...],
    exposure: UnprotectedDestinations,
    exit_problems: tuple[str, ...] = (),
    endpoints: tuple[Endpoint, ...] = (),
    network_problems: tuple[str, ...] = (),
    reachability: Mapping[str, str] | None = None,
) -> StatusReport:
    """Return the status of the node; ``counters`` are those of sockets, devices and rules."""
    open_destinations = exposure.prefixes
    destinations = [path.destination for path in cores.paths.all()]
    open_versions = exposed_versions(open_destinations)
    relayed = cores.circuits.relay_report()
    drops = {drop.value: count for drop, count in cores.engine.drops().items() if count}
    drops |= {f"control_{drop.name.lower()}": n for drop, n in relayed.drops.items() if n}
    drops |= {f"dht_{drop.name.lower()}": n for drop, n in cores.dht.counters().items() if n}
    return StatusReport(
        version=__version__,
        node_id=identity.node_id.hex(),
        overlay_address=format_address(identity.overlay_address),
        network_id=configuration.network.network_id,
        uptime_s=round(uptime_s, 3),
        backend=cores.engine.capabilities().name,
        backend_reason=backend_reason,
        roles=tuple(sorted(role.value for role in roles)),
        listen=tuple(str(endpoint) for endpoint in configuration.network.listen),
        joined=cores.joined and cores.dht.contact_count > 0,
        contacts=cores.dht.contact_count,
        mix_nodes=cores.table.offering(),
        exits=cores.table.count(Role.EXIT),
        links=len(cores.neighbours),
        link_bytes=_link_sizes(cores),
        circuits_own=len(cores.circuits.circuits()),
        circuits_relayed=relayed.relayed,
        circuits_exit=relayed.exits,
        counters=identified(counters | _activity(cores)),
        drops=identified(drops),
        protected=tuple(str(each) for each in destinations if each not in open_destinations),
        blocked_versions=_versions(cores.paths.blocked - open_versions),
        unprotected=(
            *(str(each) for each in destinations if each in open_destinations),
            *_versions(open_versions),
        ),
        unprotected_reason=exposure.reason,
        protection=missing,
        tfc=configuration.tfc.strategy,
        forwarding=configuration.forwarding.rules,
        exit_problems=exit_problems,
        endpoints=tuple(str(endpoint) for endpoint in endpoints),
        bootstrap=tuple(str(endpoint) for endpoint in configuration.network.bootstrap),
        network_problems=network_problems,
        suspect_regions=cores.dht.suspect_regions(now),
        reachability=dict(reachability or {}),
    )


def _link_sizes(cores: NodeCores) -> tuple[int, ...]:
    sizes = (cores.links.datagram_bytes(address) for address in cores.neighbours)
    return tuple(sorted(size for size in sizes if size is not None))


def _versions(versions: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"IPv{version}" for version in sorted(versions))


def identified(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts under names that are identifiers, so that other programs can use them.

    Plug-ins name counters as well. Counters whose identifiers become equal are added.
    """
    found: Counter[str] = Counter()
    for name, count in counts.items():
        found[_NO_IDENTIFIER.sub("_", name).strip("_")] += count
    return dict(found)


def _activity(cores: NodeCores) -> dict[str, int]:
    dht = asdict(cores.dht.activity) | asdict(cores.dht_traffic)
    done = {f"dht_{name}": count for name, count in dht.items()}
    done["paths_tried"] = cores.paths.first_tries
    done["paths_opened_at_first_try"] = cores.paths.opened_at_first_try
    return {name: count for name, count in done.items() if count}


def peer_report(
    descriptor: MixDescriptor,
    *,
    linked: bool,
    heard: Iterable[float | None],
    now: float,
    link_bytes: int | None = None,
) -> PeerReport:
    """Return one Mix-node of the topology table.

    ``heard`` are times of its answers. ``link_bytes`` is the largest datagram of the link to it.
    """
    last = max((when for when in heard if when is not None), default=None)
    policy = descriptor.exit_policy
    return PeerReport(
        node_id=descriptor.node_id.hex(),
        overlay_address=format_address(descriptor.overlay_address),
        endpoints=tuple(str(endpoint) for endpoint in descriptor.endpoints),
        roles=tuple(sorted(role.value for role in descriptor.roles)),
        exit_policy=tuple(format_exit_rules(policy.rules)) if policy else (),
        bandwidth_kbit=descriptor.bandwidth_kbit,
        expires_in_s=round(descriptor.expires - now, 1),
        linked=linked,
        link_bytes=link_bytes if linked else None,
        heard_s=None if last is None else max(0.0, round(now - last, 1)),
    )


@dataclass(frozen=True, slots=True)
class PathSizes:
    """The sizes that the first link of a path carries, in bytes of UDP payload and inner packet."""

    link_bytes: int | None = None
    whole_bytes: int | None = None


_UNMEASURED: Final = PathSizes()


def path_sizes(
    path: RequestedPath, link_bytes: int | None, *, onion: Suite, link: Suite, mtu: int
) -> PathSizes:
    """Return the sizes of a path whose first link carries ``link_bytes``, None if not known.

    Args:
        path: the path, with its hops.
        link_bytes: UDP payload.
        onion: suite of the onion SAs.
        link: suite of the links.
        mtu: the largest inner packet in bytes, whatever the link carries.
    """
    if link_bytes is None:
        return _UNMEASURED
    headers = 28  # IPv4 and UDP; they are subtracted again, so the version does not matter
    whole = inner_mtu(link_bytes + headers, hops=path.hops, onion=onion, link=link, ipv6=False)
    return PathSizes(link_bytes, min(whole, mtu))


def path_report(
    path: RequestedPath,
    circuit: CircuitReport | None,
    *,
    others: Iterable[IpNetwork],
    exposure: UnprotectedDestinations,
    now: float,
    mtu: int,
    sizes: PathSizes = _UNMEASURED,
) -> PathReport:
    """Return one requested path, with the data of its circuit.

    ``others`` are the destinations of the other paths, ``mtu`` is in bytes. ``sizes`` are those of
    its first link. ``exposure`` has the destinations that are not protected now.
    """
    hops = path.mix_path.hops if path.mix_path is not None and path.circuit is not None else ()
    rtt_s = circuit.rtt_s if circuit is not None else None
    return PathReport(
        number=path.number,
        destination=str(path.destination),
        state=path.state.value,
        hops=tuple(
            HopReport(hop.node_id.hex(), format_address(hop.overlay_address)) for hop in hops
        ),
        inner_addresses=tuple(format_address(address) for address in path.inner_addresses),
        rtt_ms=None if rtt_s is None else round(rtt_s * 1000, 3),
        age_s=round(now - path.requested_at, 3),
        strategy=path.strategy,
        mtu=mtu,
        both_versions=path.terms.both_versions,
        permanent=path.permanent,
        stays_open=_stays_open(path, others),
        unprotected=exposure.reason if path.destination in exposure.prefixes else "",
        trouble=path.trouble,
        attempts=path.failures,
        next_try_s=max(0.0, round(path.retry_at - now, 3))
        if math.isfinite(path.retry_at)
        else None,
        standby_ready=path.standby.ready,
        takeovers=path.takeovers,
        link_bytes=sizes.link_bytes,
        whole_bytes=sizes.whole_bytes,
    )


def _stays_open(path: RequestedPath, others: Iterable[IpNetwork]) -> tuple[str, ...]:
    """Return which addresses of the same server stay reachable in the clear, in sentences."""
    version = path.destination.version
    other = other_version(version)
    same = f"Packets to other IPv{version} addresses of the same server are not covered."
    if path.terms.both_versions:
        return (same, f"Local IPv{other} addresses are not blocked.")
    if any(destination.version == other for destination in others):
        what = f"Packets to IPv{other} addresses without a path of their own are not covered"
    else:
        what = f"Packets to IPv{other} addresses of the same server are not covered"
    return (f"{what}; open a path to them as well, or ask for --both-versions.", same)
