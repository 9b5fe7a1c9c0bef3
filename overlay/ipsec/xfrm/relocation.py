"""Plan the requests that move link SAs to other endpoints.

The kernel can change the ports of an SA in place (``XFRM_MSG_UPDSA``), but not its addresses::

    only ports changed     UPDSA
    outbound, peer moved   new SA -> policies -> old SA removed       every packet has an SA
    outbound, host moved   old SA removed -> new SA -> policies       both have one identity
    inbound, peer moved    UPDSA; the old source address stays        nothing compares it
    inbound, host moved    new SA beside the old one                  both addresses receive

A new SA continues an old one: keys, replay window, counters and age are copied. Its sequence
numbers begin ``_GAP`` higher, because the old SA may send until it is removed, and no number may
occur twice (RFC 4303, section 3.3.3). The kernel's IV is the sequence number, XORed with a random
salt of 64 bits for each SA. So two SAs with one key use the same IV only with negligible
probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from overlay.addresses import Endpoint
from overlay.ipsec.interface import IpsecConfiguration, SecurityAssociation, UdpEncapsulation
from overlay.ipsec.xfrm.changes import ABSENT
from overlay.ipsec.xfrm.entries import new_association
from overlay.ipsec.xfrm.forms import association_body, body_of, sa_id_body
from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_DELSA,
    XFRM_MSG_GETSA,
    XFRM_MSG_NEWSA,
    XFRM_MSG_UPDSA,
)
from overlay.ipsec.xfrm.netlink import CREATE, Request, XfrmSocket, refusal_error

__all__ = ["Relocation", "plan_relocation"]

_GAP: Final = 1 << 16
"""A move takes milliseconds, in which an SA sends fewer packets than this. A receiver accepts any
step forward below 2**32 (RFC 4303, appendix A2)."""

_COUNTS: Final = ("bytes", "packets", "add_time", "use_time")
_WINDOW: Final = ("bmp_len", "oseq", "seq", "oseq_hi", "seq_hi", "replay_window", "bmp")


@dataclass(slots=True)
class Relocation:
    """The steps of one move, each as one batch, and the pairs that are installed afterwards.

    ``before`` and ``after`` are the requests before and after the change of policies. The backend
    must note ``added`` and ``dropped`` SAs.
    """

    pairs: list[IpsecConfiguration] = field(default_factory=list)
    before: list[Request] = field(default_factory=list)
    after: list[Request] = field(default_factory=list)
    added: list[SecurityAssociation] = field(default_factory=list)
    dropped: list[SecurityAssociation] = field(default_factory=list)


def plan_relocation(
    netlink: XfrmSocket, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
) -> Relocation:
    """Return the requests that move the pairs of one link to two endpoints; they are not sent yet.

    The plan leaves out SAs that the kernel has removed at their hard limit.

    Raises:
        BackendError: the kernel did not answer.
    """
    plan = Relocation()
    for pair in pairs:
        inbound = [sa for sa in pair.associations if sa.inbound]
        kept = _move_inbound(netlink, plan, inbound, local, remote) if inbound else []
        for sa in pair.associations:
            if not sa.inbound:
                kept += _move_outbound(netlink, plan, sa, local, remote)
        plan.pairs.append(replace(pair, associations=tuple(kept)))
    return plan


def _move_outbound(
    netlink: XfrmSocket,
    plan: Relocation,
    sa: SecurityAssociation,
    local: Endpoint,
    remote: Endpoint,
) -> list[SecurityAssociation]:
    new = replace(
        sa,
        source=local.packed,
        destination=remote.packed,
        encapsulation=UdpEncapsulation(local, remote),
    )
    if (new.source, new.destination) == (sa.source, sa.destination):
        plan.before.append(_update(new))
        return [new]
    plan.dropped.append(sa)
    install = _continued(netlink, sa, new)
    if install is None:
        return []
    remove = Request(XFRM_MSG_DELSA, sa_id_body(sa.identity))
    (plan.before if new.identity == sa.identity else plan.after).append(remove)
    plan.before.append(install)
    plan.added.append(new)
    return [new]


def _move_inbound(
    netlink: XfrmSocket,
    plan: Relocation,
    installed: Sequence[SecurityAssociation],
    local: Endpoint,
    remote: Endpoint,
) -> list[SecurityAssociation]:
    """Plan to receive at ``local`` and at the last address before it, but at no third address."""
    ends = UdpEncapsulation(remote, local)
    here = next((sa for sa in installed if sa.destination == local.packed), None)
    former = [sa for sa in installed if sa is not here]
    if here is not None:
        new = replace(here, encapsulation=ends)
        plan.before.append(_update(new))
    else:
        new = replace(former[0], source=remote.packed, destination=local.packed, encapsulation=ends)
        install = _continued(netlink, former[0], new)
        if install is None:
            plan.dropped += former
            return []
        plan.before.append(install)
        plan.added.append(new)
    for sa in former[1:]:
        plan.after.append(Request(XFRM_MSG_DELSA, sa_id_body(sa.identity)))
        plan.dropped.append(sa)
    return [new, *former[:1]]


def _update(sa: SecurityAssociation) -> Request:
    """Return the request that changes an SA's ports; the kernel ignores its other fields."""
    return Request(XFRM_MSG_UPDSA, association_body(sa))


def _continued(
    netlink: XfrmSocket, old: SecurityAssociation, new: SecurityAssociation
) -> Request | None:
    """Return the request to install ``new`` with the state of ``old``; None if ``old`` is gone."""
    found, refusal = netlink.get(Request(XFRM_MSG_GETSA, sa_id_body(old.identity)))
    if refusal is not None and refusal.number in ABSENT:
        return None
    if refusal is not None:
        raise refusal_error("asking for an SA of a link that moves", refusal)
    message = new_association(new)
    progress = {
        "XFRMA_REPLAY_ESN_VAL": _progress(found, outbound=not new.inbound),
        "XFRMA_LTIME_VAL": {name: found[f"curlft_{name}"] for name in _COUNTS},
    }
    message["attrs"] = [
        *((name, value) for name, value in message["attrs"] if name not in progress),
        *progress.items(),
    ]
    return Request(XFRM_MSG_NEWSA, body_of(message), CREATE)


def _progress(found: Any, *, outbound: bool) -> dict[str, Any]:  # noqa: ANN401 - pyroute2 has no types
    """Return the sequence numbers and the window with which a new SA continues an old one."""
    told = found.get_attr("XFRMA_REPLAY_ESN_VAL")
    window = {name: told[name] for name in _WINDOW}
    if outbound:
        number = (window["oseq_hi"] << 32 | window["oseq"]) + _GAP
        window["oseq_hi"], window["oseq"] = number >> 32, number & 0xFFFFFFFF
    return window
