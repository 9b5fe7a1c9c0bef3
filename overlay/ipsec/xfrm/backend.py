"""The IPsec backend of the kernel: after the set-up of a circuit no program handles its packets.

::

    install   SAs -> policies -> addresses      a failure removes what was installed
    remove    addresses -> policies -> SAs      never fails: see pending_removals.py

An address is installed last and removed first, so that packets from it always have a policy. The
backend stores what this process installed, and removes only that. The start removes entries that a
killed process left; :mod:`overlay.ipsec.xfrm.entries` recognises them.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Self

from overlay.addresses import OVERLAY_NETWORKS, Endpoint, IpNetwork
from overlay.errors import BackendError
from overlay.ipsec.interface import (
    BackendCapabilities,
    Drop,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SaCounters,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
)
from overlay.ipsec.xfrm.changes import (
    ABSENT,
    Change,
    association_changes,
    blocking_changes,
    policy_change,
    remove_leftovers,
)
from overlay.ipsec.xfrm.checks import check_configuration
from overlay.ipsec.xfrm.counting import count_policies
from overlay.ipsec.xfrm.device import CircuitDevice
from overlay.ipsec.xfrm.entries import (
    KERNEL_MAX_TEMPLATES,
    asks_for_mark,
    counters_of,
    found_identity,
    is_ours,
    masked,
)
from overlay.ipsec.xfrm.forms import policy_bodies, sa_id_body
from overlay.ipsec.xfrm.kernel_statistics import kernel_statistics
from overlay.ipsec.xfrm.leftovers import KERNEL_IPSEC, STOP_THE_OTHER
from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_DELPOLICY,
    XFRM_MSG_DELSA,
    XFRM_MSG_EXPIRE,
    XFRM_MSG_GETSA,
    XFRM_MSG_UPDPOLICY,
)
from overlay.ipsec.xfrm.moved_links import MovedLinks
from overlay.ipsec.xfrm.moves import MovedPeers
from overlay.ipsec.xfrm.netlink import Request, XfrmEvents, XfrmSocket, refusal_error
from overlay.ipsec.xfrm.pending_removals import PendingRemovals
from overlay.ipsec.xfrm.probe import usable_suites
from overlay.ipsec.xfrm.relocation import plan_relocation
from overlay.system.host_events import HostEvent
from overlay.system.kept_device import DeviceOwner
from overlay.system.local_address import own_addresses
from overlay.system.ownership import Ownership

__all__ = ["XfrmBackend"]


_BLOCKING: Final = tuple(blocking_changes(OVERLAY_NETWORKS))
_LOST_POLICIES: Final = "IPsec policies"
_LOST_LOCK: Final = "lock"
_LOST_ADDRESSES: Final = "overlay addresses"

_PolicyKey = tuple[PolicyDirection, Prefix, Prefix, int | None]


@dataclass(frozen=True, slots=True)
class _Installed:
    """The data that the backend stores of an SA; it contains no key."""

    reqid: int
    source: bytes
    has_soft_limit: bool
    is_link: bool


# Large: the protocols NodeBackend and Enforced have most of these methods.
class XfrmBackend:
    """The Linux kernel's IPsec in this network namespace; a context manager with one owner.

    Args:
        rng: ``random.SystemRandom()`` except in tests. It draws the SPIs of the probe, and the
            first sequence numbers of outbound SAs.
        experiment: accept suites that are only for experiments (3DES).
        routed: prefixes besides the overlay's that must reach the policies (an exit's inner
            addresses).

    Raises:
        BackendError: this kernel has no ESP, there is no permission, or another node uses the
            kernel's IPsec in this network namespace.
    """

    def __init__(
        self, *, rng: Random, experiment: bool = False, routed: Sequence[IpNetwork] = ()
    ) -> None:
        self._rng = rng
        self._associations: dict[SaIdentity, _Installed] = {}
        self._policies: dict[_PolicyKey, tuple[Template, ...]] = {}
        self._places: MovedLinks[_PolicyKey] = MovedLinks()
        self._addresses: Counter[bytes] = Counter()
        self.before_address: Callable[[bytes], None] | None = None
        """Called with each address before this host gets it; an exception refuses the address."""
        self._marks: dict[bytes, int] = {}
        with ExitStack() as opened:
            self._owner = Ownership(KERNEL_IPSEC, STOP_THE_OTHER)
            opened.callback(self._owner.release)
            self._netlink = opened.enter_context(XfrmSocket())
            self._debris = PendingRemovals(self._netlink)
            self.leftovers_removed = remove_leftovers(self._netlink)
            self._suites = usable_suites(self._netlink, rng, experiment=experiment)
            self._events = opened.enter_context(XfrmEvents())
            self.moved_peers = opened.enter_context(MovedPeers())
            """Reports link SAs whose packets come from another endpoint than that of the SA."""
            self._device = CircuitDevice(routed)
            opened.callback(self._device.close)
            opened.callback(self._clear)
            self._close_prefixes()
            self._statistics = kernel_statistics()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Remove everything, including the device; the backend cannot be used any more."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Methods of IpsecBackend.

    def capabilities(self) -> BackendCapabilities:
        """Return what this kernel supports; its suites were tried when the backend started."""
        return BackendCapabilities(
            "xfrm", self._suites, KERNEL_MAX_TEMPLATES, moves_outer_addresses=True
        )

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install SAs, policies and addresses, all or nothing.

        Raises:
            ValueError: an SA or policy with the same identity is installed, or a suite, key
                size, address or number of templates is not supported.
            BackendError: the kernel refused.
        """
        check_configuration(configuration, self._suites)
        self._check_new(configuration)
        fresh = [each for each in _distinct(configuration) if not self._addresses[each]]
        placed = replace(configuration, policies=self._places.all_placed(configuration.policies))
        changes = [
            *association_changes(configuration, self._rng),
            *map(self._change_of, placed.policies),
        ]
        self._apply(changes)
        try:
            if self.before_address is not None:
                for each in fresh:
                    self.before_address(each)
            self._device.add(fresh)
        except BaseException:
            self._debris.remove([change.undo for change in reversed(changes)])
            raise
        self._remember(configuration)

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what :meth:`install` of the same value installed; absent parts are no error.

        An address stays while another configuration has it. It is released if an SA or policy of
        this configuration was still installed, or if the configuration has none. Entries that the
        kernel does not remove now are removed later; :meth:`association_counts` has their number.
        """
        associations = [sa for sa in configuration.associations if self._holds(sa)]
        policies = [policy for policy in configuration.policies if self._holds_policy(policy)]
        nothing_to_find = not (configuration.associations or configuration.policies)
        for policy in policies:
            key = _policy_key(policy)
            self._places.forget(key, self._policies.pop(key))
        for sa in associations:
            del self._associations[sa.identity]
        if associations or policies or nothing_to_find:
            self._release(configuration.local_addresses)
        self._debris.retry()
        self._debris.remove(
            [Request(XFRM_MSG_DELPOLICY, self._bodies(policy)[1]) for policy in policies]
            + [Request(XFRM_MSG_DELSA, sa_id_body(sa.identity)) for sa in associations]
        )

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the kernel's counters of an SA of this backend, None if it does not exist.

        Raises:
            BackendError: the kernel did not answer.
        """
        if identity not in self._associations:
            return None
        message, refusal = self._netlink.get(Request(XFRM_MSG_GETSA, sa_id_body(identity)))
        if refusal is None:
            return counters_of(message)
        if refusal.number in ABSENT:
            return None
        raise refusal_error("asking for an SA's counters", refusal)

    def flush(self) -> None:
        """Remove everything that this backend installed, and nothing else."""
        self._clear()
        self._close_prefixes()

    # Outputs for the node.

    @property
    def device_name(self) -> str:
        """The name of the device to which routes into circuits lead; see ``device.py``."""
        return self._device.name

    @property
    def device(self) -> DeviceOwner:
        """The owner of that device, which creates it again if it is lost."""
        return self._device

    def write_to_device(self, packets: Sequence[bytes]) -> None:
        """Pass packets to the kernel as if they came from that device."""
        self._device.write_batch(packets)

    def ask_for_mark(self, source: bytes, mark: int | None) -> None:
        """Let the policies for programs' IPv6 packets from ``source`` require a mark, or none.

        Packets without the mark then find no policy, so that their route decides what happens. New
        policies are installed before the others are removed, so packets always find one.

        Args:
            source: a packed inner address of this host; policies of IPv4 never require a mark.
            mark: the mark, or None.

        Raises:
            BackendError: the kernel refused; the former policies stay.
        """
        if self._marks.get(source) == mark or source not in self._addresses:
            return
        policies = [
            policy
            for policy in self._places.all_placed(self._known_policies())
            if asks_for_mark(policy) and policy.selector.source.network == source
        ]
        removals = [Request(XFRM_MSG_DELPOLICY, self._bodies(each)[1]) for each in policies]
        self._apply([policy_change(each, mark=mark) for each in policies])
        self._marks.pop(source, None)
        if mark is not None:
            self._marks[source] = mark
        self._debris.remove(removals)

    def association_counts(self) -> dict[str, int]:
        """Return the number of installed SAs of each kind, for reports to the operator."""
        links = sum(each.is_link for each in self._associations.values())
        counts = {"link SAs": links, "onion SAs": len(self._associations) - links}
        kept = len(self._debris) + self._device.kept
        return counts | {"entries that the kernel keeps": kept} if kept else counts

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when :meth:`soft_expired` has results."""
        return self._events.fileno()

    def relocate(
        self, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
    ) -> list[IpsecConfiguration]:
        """Move all pairs of one link to two endpoints; see ``relocation.py``.

        Raises:
            BackendError: the kernel refused. Then the link must be closed.
        """
        plan = plan_relocation(self._netlink, pairs, local, remote)
        reqid = next(sa.reqid for pair in pairs for sa in pair.associations)
        policies = self._places.move(reqid, local.packed, remote.packed)
        changes = [Request(XFRM_MSG_UPDPOLICY, self._bodies(each)[0]) for each in policies]
        try:
            for verdict in self._netlink.send([*plan.before, *changes]):
                if verdict is not None and verdict.number not in ABSENT:
                    raise refusal_error("moving a link", verdict)
        except BackendError:
            added = [Request(XFRM_MSG_DELSA, sa_id_body(each.identity)) for each in plan.added]
            self._debris.remove_what_is_ours(added)
            raise
        for sa in plan.dropped:
            del self._associations[sa.identity]
        for sa in plan.added:
            self._associations[sa.identity] = _remembered(sa)
        self._debris.remove(plan.after)
        return plan.pairs

    def limit_link(
        self,
        reqid: int,
        datagram_bytes: int,
    ) -> None:
        """Do nothing, because the kernel takes the sizes of packets from its routes."""

    def soft_expired(self) -> list[SaIdentity]:
        """Return the SAs that reached a soft limit since the last call, each once.

        After an overrun of the kernel's queue, these are all SAs with a soft limit, because an
        unnecessary key exchange does no harm.
        """
        expired = [
            found_identity(message)
            for message in self._events.drain()
            if message["header"]["type"] == XFRM_MSG_EXPIRE
            and not message["hard"]
            and is_ours(message)
        ]
        if self._events.overrun:
            self._events.overrun = False
            expired += [key for key, each in self._associations.items() if each.has_soft_limit]
        return [each for each in dict.fromkeys(expired) if each in self._associations]

    def drops(self) -> dict[Drop, int]:
        """Return the kernel's error counters of this network namespace since the start."""
        return {
            drop: count - self._statistics.get(drop, 0)
            for drop, count in kernel_statistics().items()
            if count > self._statistics.get(drop, 0)
        }

    # Repairs after changes by other programs.

    def hear(self, events: Collection[HostEvent]) -> None:
        """Do nothing, because :meth:`repair` checks everything."""

    def disturbed(self) -> bool:
        """Return False, because the kernel sends a notification of every loss."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return the names of the parts that the kernel lacks; nothing is changed.

        Raises:
            BackendError: the kernel did not answer.
        """
        lost = {
            _LOST_POLICIES: self._lacks_policies(),
            _LOST_ADDRESSES: bool(self._lost_addresses()),
        }
        return tuple(name for name, is_lost in lost.items() if is_lost)

    def repair(self) -> tuple[str, ...]:
        """Restore policies and addresses; return the names of the parts that were missing.

        The backend does not keep the keys of SAs, so the loss of SAs ends links and circuits.

        Raises:
            BackendError: the kernel refused, or another node owns its IPsec by now.
        """
        repaired = [_LOST_LOCK] if self._owner.retake() else []
        if self._lacks_policies():
            repaired.append(_LOST_POLICIES)
            self._put_policies_back()
        addresses = self._lost_addresses()
        if addresses:
            repaired.append(_LOST_ADDRESSES)
            self._device.add(addresses)
        return tuple(repaired)

    def _lacks_policies(self) -> bool:
        return count_policies() < len(self._policies) + len(_BLOCKING)

    def _put_policies_back(self) -> None:
        placed = self._places.all_placed(self._known_policies())
        changes = [*_BLOCKING, *(self._change_of(each) for each in placed)]
        for verdict in self._netlink.send([change.do for change in changes]):
            if verdict is not None and verdict.number != errno.EEXIST:
                raise refusal_error("installing a security policy", verdict)

    def _known_policies(self) -> list[SecurityPolicy]:
        return [
            SecurityPolicy(direction, Selector(source, destination, protocol), templates)
            for (direction, source, destination, protocol), templates in self._policies.items()
        ]

    def _lost_addresses(self) -> list[bytes]:
        held = own_addresses() if self._addresses else frozenset()
        return [address for address in self._addresses if address not in held]

    # Changes.

    def _change_of(self, policy: SecurityPolicy) -> Change:
        return policy_change(policy, mark=self._marks.get(policy.selector.source.network))

    def _bodies(self, policy: SecurityPolicy) -> tuple[bytes, bytes]:
        return policy_bodies(policy, mark=self._marks.get(policy.selector.source.network))

    def _clear(self) -> None:
        self._device.remove(list(self._addresses))
        self._addresses.clear()
        self._associations.clear()
        self._policies.clear()
        self._places.clear()
        self._marks.clear()
        remove_leftovers(self._netlink)
        self._debris.forget()

    def _close_prefixes(self) -> None:
        """Drop packets to overlay and circuit addresses unless another policy covers them."""
        self._apply(_BLOCKING)

    def _check_new(self, configuration: IpsecConfiguration) -> None:
        identities = [sa.identity for sa in configuration.associations]
        if len(set(identities)) < len(identities) or not self._associations.keys().isdisjoint(
            identities
        ):
            raise ValueError("An SA with the same SPI and destination is installed.")
        keys = [_policy_key(policy) for policy in configuration.policies]
        if len(set(keys)) < len(keys) or not self._policies.keys().isdisjoint(keys):
            raise ValueError("A policy with the same direction and selector is installed.")

    def _apply(self, changes: Sequence[Change]) -> None:
        """Make all changes, or none.

        Raises:
            BackendError: the kernel refused one, or the socket failed.
        """
        self._debris.retry()
        try:
            verdicts = self._netlink.send([change.do for change in changes])
        except BackendError:
            self._debris.remove_what_is_ours([change.undo for change in reversed(changes)])
            raise
        refused = [
            (change, verdict)
            for change, verdict in zip(changes, verdicts, strict=True)
            if verdict is not None
        ]
        if refused:
            failed = {id(change) for change, _ in refused}
            done = [change for change in changes if id(change) not in failed]
            self._debris.remove([change.undo for change in reversed(done)])
            raise refusal_error(refused[0][0].operation, refused[0][1])

    def _remember(self, configuration: IpsecConfiguration) -> None:
        for sa in configuration.associations:
            self._associations[sa.identity] = _remembered(sa)
        for policy in configuration.policies:
            self._policies[_policy_key(policy)] = policy.templates
            self._places.note(_policy_key(policy), policy)
        self._addresses.update(configuration.local_addresses)

    def _release(self, addresses: Iterable[bytes]) -> None:
        free = []
        for address in addresses:
            self._addresses[address] -= 1
            if self._addresses[address] <= 0:
                del self._addresses[address]
                self._marks.pop(address, None)
                free.append(address)
        self._device.remove(free)

    def _holds(self, sa: SecurityAssociation) -> bool:
        return self._associations.get(sa.identity) == _remembered(sa)

    def _holds_policy(self, policy: SecurityPolicy) -> bool:
        return self._policies.get(_policy_key(policy)) == policy.templates


def _remembered(sa: SecurityAssociation) -> _Installed:
    limits = (sa.lifetime.soft_s, sa.lifetime.soft_packets, sa.lifetime.soft_bytes)
    has_soft_limit = any(limit is not None for limit in limits)
    return _Installed(sa.reqid, sa.source, has_soft_limit, sa.encapsulation is not None)


def _policy_key(policy: SecurityPolicy) -> _PolicyKey:
    selector = policy.selector
    source, destination = selector.source, selector.destination
    return policy.direction, masked(source), masked(destination), selector.protocol


def _distinct(configuration: IpsecConfiguration) -> list[bytes]:
    return list(dict.fromkeys(configuration.local_addresses))
