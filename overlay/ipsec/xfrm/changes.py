"""Build requests that install entries in the kernel, with the requests that remove them."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import IpNetwork
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SecurityPolicy,
    Selector,
)
from overlay.ipsec.replay import draw_start
from overlay.ipsec.xfrm.entries import found_identity, found_policy_id, is_ours
from overlay.ipsec.xfrm.forms import association_body, body_of, policy_bodies, sa_id_body
from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_DELPOLICY,
    XFRM_MSG_DELSA,
    XFRM_MSG_GETPOLICY,
    XFRM_MSG_GETSA,
    XFRM_MSG_NEWPOLICY,
    XFRM_MSG_NEWSA,
    userpolicy_dump,
    usersa_dump,
)
from overlay.ipsec.xfrm.netlink import CREATE, Request, XfrmSocket, refusal_error

__all__ = [
    "ABSENT",
    "Change",
    "association_changes",
    "blocking_changes",
    "policy_change",
    "remove_leftovers",
]

ABSENT: Final = frozenset((errno.ENOENT, errno.ESRCH))
"""The kernel's errors if a policy or an SA does not exist."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry to install: the request that installs it, and the one that removes it."""

    operation: str
    do: Request
    undo: Request


def association_changes(configuration: IpsecConfiguration, rng: Random) -> Iterable[Change]:
    """Yield a change for each SA; it contains the keys.

    ``rng`` draws the first sequence number of each outbound SA.
    """
    for sa in configuration.associations:
        start = 0 if sa.inbound else draw_start(rng)
        yield Change(
            "installing a security association",
            Request(XFRM_MSG_NEWSA, association_body(sa, start), CREATE),
            Request(XFRM_MSG_DELSA, sa_id_body(sa.identity)),
        )


def policy_change(
    policy: SecurityPolicy, *, blocks: bool = False, mark: int | None = None
) -> Change:
    """Return the change for one policy; with ``blocks`` it drops packets that match.

    ``mark`` is that of :func:`overlay.ipsec.xfrm.forms.policy_bodies`.
    """
    body, identity = policy_bodies(policy, blocks=blocks, mark=mark)
    return Change(
        "installing a security policy",
        Request(XFRM_MSG_NEWPOLICY, body, CREATE),
        Request(XFRM_MSG_DELPOLICY, identity),
    )


def blocking_changes(networks: Iterable[IpNetwork]) -> list[Change]:
    """Return changes that drop all packets to some networks, in each direction.

    A policy of this backend for a part of a network has priority.
    """
    changes = []
    for network in networks:
        everywhere = ANY_V4 if network.version == 4 else ANY_V6
        prefix = Prefix(network.network_address.packed, network.prefixlen)
        for direction in PolicyDirection:
            policy = SecurityPolicy(direction, Selector(everywhere, prefix), ())
            changes.append(policy_change(policy, blocks=True))
    return changes


def remove_leftovers(netlink: XfrmSocket) -> int:
    """Remove every SA and policy of this product; return how many there were.

    Raises:
        BackendError: there is no permission.
    """
    policies = netlink.dump(Request(XFRM_MSG_GETPOLICY, body_of(userpolicy_dump())))
    associations = netlink.dump(Request(XFRM_MSG_GETSA, body_of(usersa_dump())))
    requests = [
        Request(XFRM_MSG_DELPOLICY, body_of(found_policy_id(each)))
        for each in policies
        if is_ours(each)
    ] + [
        Request(XFRM_MSG_DELSA, sa_id_body(found_identity(each)))
        for each in associations
        if is_ours(each)
    ]
    for verdict in netlink.send(requests):
        if verdict is not None and verdict.number not in ABSENT:
            raise refusal_error("removing what an earlier run left in the kernel", verdict)
    return len(requests)
