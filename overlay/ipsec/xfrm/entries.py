"""Convert values to the kernel's entries and back, and recognise the entries of this product.

Every entry of this product has two marks. A start removes only entries that have both:

- The selector's ``user`` is :data:`OWNER`. The kernel stores this field of SAs and policies
  and shows it (``uid`` in ``ip -s xfrm``), but never matches packets by it. It is part of a
  policy's identity. So policies of this product neither collide with those of other programs
  nor delete them.
- The ``reqid`` is in a range of 2**28 numbers. IKE daemons count from 1, so their numbers are
  outside of it. So templates of this product never use SAs of other programs between the same
  two hosts, nor the reverse.

Priorities: the kernel takes the policy with the lowest number. The most specific selector
decides, as in the userspace engine: longest destination prefix, then longest source prefix,
then a named protocol.
"""

from __future__ import annotations

import math
import socket
from typing import Any, Final

from overlay.addresses import is_circuit_address, is_overlay_address
from overlay.ipsec.interface import (
    Drop,
    Lifetime,
    PolicyDirection,
    Prefix,
    SaCounters,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.algorithms import algorithm_attributes
from overlay.ipsec.xfrm.messages import (
    UDP_ENCAP_ESPINUDP,
    XFRM_INF,
    XFRM_MODE_TUNNEL,
    XFRM_POLICY_ALLOW,
    XFRM_POLICY_BLOCK,
    XFRM_POLICY_FWD,
    XFRM_POLICY_IN,
    XFRM_POLICY_OUT,
    XFRM_SA_XFLAG_DONT_ENCAP_DSCP,
    XFRM_STATE_AF_UNSPEC,
    XFRM_STATE_ESN,
    XFRM_STATE_NOECN,
    XFRM_STATE_NOPMTUDISC,
    userpolicy_id,
    userpolicy_info,
    usersa_id,
    usersa_info,
)
from overlay.system.kill_switch import NODE_MARK
from overlay.system.packet_filter import LARGE_MARK

__all__ = [
    "DIRECTIONS",
    "KERNEL_MAX_TEMPLATES",
    "MAX_REQID",
    "MAX_WINDOW",
    "OWNER",
    "asks_for_mark",
    "blocking_policy",
    "counters_of",
    "found_identity",
    "found_policy_id",
    "is_ours",
    "kernel_reqid",
    "kernel_templates",
    "limit_values",
    "masked",
    "new_association",
    "new_policy",
    "policy_id",
    "priority",
    "sa_id",
]

OWNER: Final = 0x6D697861
"""The selector's ``user`` in every entry of this product ("mixa"); no user has this uid."""

MAX_REQID: Final = 2**28 - 1
_REQID_BAND: Final = 0x60000000

KERNEL_MAX_TEMPLATES: Final = 5
"""With six, packets fail with ENOBUFS, because the kernel's XFRM_MAX_DEPTH includes the route."""

MAX_WINDOW: Final = 4096
"""XFRMA_REPLAY_ESN_MAX, in packets."""

_FIRST_PRIORITY: Final = 1024
"""Before the policies of IKE daemons, which are less specific and begin at some 100,000."""

_ESP: Final = 50
_OUTBOUND_WINDOW: Final = 32
"""A sender needs no window, but the kernel does not accept ESN without one."""

_WHOLE_MARK: Final = 0xFFFFFFFF
_EVERY_ALGORITHM: Final = 0xFFFFFFFF
_PREFIX_LENGTHS: Final = 129

DIRECTIONS: Final = {
    PolicyDirection.IN: XFRM_POLICY_IN,
    PolicyDirection.OUT: XFRM_POLICY_OUT,
    PolicyDirection.FWD: XFRM_POLICY_FWD,
}


# Values of the product to messages.


def new_association(sa: SecurityAssociation, start: int = 0) -> usersa_info:
    """Return the NEWSA of one SA; it contains the keys.

    ``start`` is the sequence number before that of the first packet, if the SA is outbound.
    """
    message = usersa_info()
    message.update(
        sel_user=OWNER,
        id_daddr=sa.destination,
        id_spi=sa.spi,
        id_proto=_ESP,
        saddr=sa.source,
        reqid=kernel_reqid(sa.reqid),
        family=_family(sa.destination),
        mode=XFRM_MODE_TUNNEL,
        flags=_flags(sa),
        **_limits(sa.lifetime),
    )
    message["attrs"] = [
        *algorithm_attributes(SUITES[sa.suite], sa.keymat),
        ("XFRMA_REPLAY_ESN_VAL", _inbound_window(sa) if sa.inbound else _outbound_window(start)),
        ("XFRMA_SA_EXTRA_FLAGS", XFRM_SA_XFLAG_DONT_ENCAP_DSCP),
        *_encapsulation(sa),
    ]
    if sa.tfc_pad_to and not sa.inbound:
        message["attrs"].append(("XFRMA_TFCPAD", sa.tfc_pad_to))
    return message


def new_policy(policy: SecurityPolicy, mark: int | None = None) -> userpolicy_info:
    """Return the NEWPOLICY of one policy; ``mark`` as for :func:`asks_for_mark`."""
    message = userpolicy_info()
    message.update(
        **_selector(policy.selector),
        **_limits(Lifetime()),
        priority=priority(policy.selector),
        dir=DIRECTIONS[policy.direction],
        action=XFRM_POLICY_ALLOW,
    )
    templates = [_template(each) for each in kernel_templates(policy)]
    message["attrs"] = [("XFRMA_TMPL", templates), *_mark(policy, mark)]
    return message


def asks_for_mark(policy: SecurityPolicy) -> bool:
    """Tell whether a policy is for IPv6 packets that programs of this host send into a circuit.

    Where such packets are cut before IPsec takes them, the policy is for packets with the mark of
    ``overlay.system.fragmenting_device`` alone. Without it they find no policy, so the route's MTU
    decides. For IPv4 the device has a setting to this end.
    """
    source = policy.selector.source
    is_host = (
        policy.direction is PolicyDirection.OUT and source.length == len(source.network) * 8 == 128
    )
    return is_host and not (
        is_overlay_address(source.network) or is_circuit_address(source.network)
    )


def _mark(policy: SecurityPolicy, mark: int | None) -> list[tuple[str, Any]]:
    if mark is None or not asks_for_mark(policy):
        return []
    return [("XFRMA_MARK", {"v": mark, "m": _WHOLE_MARK & ~LARGE_MARK})]


def kernel_templates(policy: SecurityPolicy) -> tuple[Template, ...]:
    """Return the templates of a policy as the kernel gets them.

    The outermost template of an inbound policy names no source, because the reqid identifies the
    link. If the peer moves, an installed SA keeps its source address, and later SAs have another.
    """
    if policy.direction is PolicyDirection.OUT or not policy.templates:
        return policy.templates
    *inner, link = policy.templates
    return (*inner, Template(bytes(len(link.source)), link.destination, link.reqid))


def blocking_policy(policy: SecurityPolicy) -> userpolicy_info:
    """Return the NEWPOLICY that drops packets that match; it has no templates."""
    message = new_policy(policy)
    message["action"] = XFRM_POLICY_BLOCK
    message["attrs"] = []
    return message


def sa_id(identity: SaIdentity) -> usersa_id:
    """Return the body of DELSA and GETSA."""
    message = usersa_id()
    message.update(
        daddr=identity.destination,
        spi=identity.spi,
        family=_family(identity.destination),
        proto=_ESP,
    )
    return message


def policy_id(policy: SecurityPolicy, mark: int | None = None) -> userpolicy_id:
    """Return the body of DELPOLICY; ``mark`` as for :func:`asks_for_mark`."""
    message = userpolicy_id()
    message.update(**_selector(policy.selector), dir=DIRECTIONS[policy.direction])
    message["attrs"] = _mark(policy, mark)
    return message


def priority(selector: Selector) -> int:
    """Return the kernel's priority: a more specific selector gets a lower number."""
    widths = (128 - selector.destination.length, 128 - selector.source.length)
    width = widths[0] * _PREFIX_LENGTHS + widths[1]
    return _FIRST_PRIORITY + 2 * width + (selector.protocol is None)


def masked(prefix: Prefix) -> Prefix:
    """Return the prefix without host bits, because the kernel compares selectors bit by bit."""
    size = len(prefix.network)
    host_bits = size * 8 - prefix.length
    if not host_bits:
        return prefix
    network = int.from_bytes(prefix.network, "big") >> host_bits << host_bits
    return Prefix(network.to_bytes(size, "big"), prefix.length)


def _selector(selector: Selector) -> dict[str, Any]:
    source, destination = masked(selector.source), masked(selector.destination)
    return {
        "sel_saddr": source.network,
        "sel_prefixlen_s": source.length,
        "sel_daddr": destination.network,
        "sel_prefixlen_d": destination.length,
        "sel_family": _family(source.network),
        "sel_proto": selector.protocol or 0,
        "sel_user": OWNER,
    }


def _template(template: Template) -> dict[str, Any]:
    return {
        "saddr": template.source,
        "daddr": template.destination,
        "family": _family(template.destination),
        "proto": _ESP,
        "mode": XFRM_MODE_TUNNEL,
        "reqid": kernel_reqid(template.reqid),
        "aalgos": _EVERY_ALGORITHM,
        "ealgos": _EVERY_ALGORITHM,
        "calgos": _EVERY_ALGORITHM,
    }


def _flags(sa: SecurityAssociation) -> int:
    """Return flags for inner packets of both IP versions, whose ECN bits are not copied outwards.

    Packets of a link SA may be fragmented on their way. So an ICMP error of another host cannot
    lower the packet size of this node.
    """
    flags = XFRM_STATE_AF_UNSPEC | XFRM_STATE_NOECN
    if sa.encapsulation is not None:
        flags |= XFRM_STATE_NOPMTUDISC
    return flags | XFRM_STATE_ESN if sa.esn else flags


def _inbound_window(sa: SecurityAssociation) -> dict[str, Any]:
    """Return the window without its bitmap, which the kernel initialises with zeros."""
    return {"bmp_len": (sa.replay_window + 31) // 32, "replay_window": sa.replay_window}


def _outbound_window(start: int) -> dict[str, Any]:
    """Return the counter of a sender, whose high half is 0 because it begins below 2**31."""
    return {"bmp_len": 1, "replay_window": _OUTBOUND_WINDOW, "oseq": start}


def _encapsulation(sa: SecurityAssociation) -> list[tuple[str, Any]]:
    if sa.encapsulation is None:
        return []
    ports = {
        "type": UDP_ENCAP_ESPINUDP,
        "sport": sa.encapsulation.source.port,
        "dport": sa.encapsulation.destination.port,
    }
    attributes: list[tuple[str, Any]] = [("XFRMA_ENCAP", ports)]
    if not sa.inbound:
        # The mark lets packets reach a peer at a protected destination, like the node's datagrams.
        mask = _WHOLE_MARK & ~LARGE_MARK
        attributes += [("XFRMA_SET_MARK", NODE_MARK), ("XFRMA_SET_MARK_MASK", mask)]
    return attributes


_LIMIT_FIELDS: Final = (
    "lft_soft_byte_limit",
    "lft_hard_byte_limit",
    "lft_soft_packet_limit",
    "lft_hard_packet_limit",
    "lft_soft_add_expires_seconds",
    "lft_hard_add_expires_seconds",
)


def limit_values(lifetime: Lifetime) -> tuple[int, int, int, int, int, int]:
    """Return bytes, packets and seconds, soft before hard, in the order of the kernel's struct.

    Without a limit, seconds are 0 and the others have the greatest number.
    """
    return (
        _count(lifetime.soft_bytes),
        _count(lifetime.hard_bytes),
        _count(lifetime.soft_packets),
        _count(lifetime.hard_packets),
        math.ceil(lifetime.soft_s or 0),
        math.ceil(lifetime.hard_s or 0),
    )


def _limits(lifetime: Lifetime) -> dict[str, int]:
    return dict(zip(_LIMIT_FIELDS, limit_values(lifetime), strict=True))


def _count(limit: int | None) -> int:
    return XFRM_INF if limit is None else limit


def kernel_reqid(reqid: int) -> int:
    """Return the kernel's number for a reqid of this product."""
    return _REQID_BAND | reqid


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


# The kernel's messages to values of the product.


def is_ours(message: Any) -> bool:  # noqa: ANN401 - pyroute2 has no types
    """Tell whether an SA or a policy of a dump or an event was installed by this product."""
    if message["sel_user"] != OWNER:
        return False
    if "reqid" in message:
        return _in_band(message["reqid"])
    templates = message.get_attr("XFRMA_TMPL") or []
    if not templates:
        return bool(message["action"] == XFRM_POLICY_BLOCK)
    return all(_in_band(each["reqid"]) for each in templates)


def found_identity(message: Any) -> SaIdentity:  # noqa: ANN401 - pyroute2 has no types
    """Return the identity of an SA of a dump or an event."""
    size = 4 if message["family"] == socket.AF_INET else 16
    return SaIdentity(Spi(message["id_spi"]), bytes(message["id_daddr"][:size]))


def found_policy_id(message: Any) -> userpolicy_id:  # noqa: ANN401 - pyroute2 has no types
    """Return the body of DELPOLICY for a policy of a dump."""
    identity = userpolicy_id()
    identity.update({name: message[name] for name in message if name.startswith("sel_")})
    identity["dir"] = message["dir"]
    mark = message.get_attr("XFRMA_MARK")
    if mark is not None:
        identity["attrs"] = [("XFRMA_MARK", {"v": mark["v"], "m": mark["m"]})]
    return identity


def counters_of(message: Any) -> SaCounters:  # noqa: ANN401 - pyroute2 has no types
    """Return the counters of an SA, which has either sent or received.

    ``payload_bytes`` is the kernel's count: the encapsulated packets at a sender, without TFC
    padding. The time of the last use is None. Linux before 6.2 does not report it, and later
    versions report it by a clock that a user may set.
    """
    window = message.get_attr("XFRMA_REPLAY_ESN_VAL") or {}
    received = window.get("seq_hi", 0) << 32 | window.get("seq", 0)
    sent = window.get("oseq_hi", 0) << 32 | window.get("oseq", 0)
    drops = (
        (Drop.IN_STATE_SEQ_ERROR, message["stats_replay"] + message["stats_replay_window"]),
        (Drop.IN_STATE_PROTO_ERROR, message["stats_integrity_failed"]),
    )
    return SaCounters(
        packets=message["curlft_packets"],
        payload_bytes=message["curlft_bytes"],
        sequence=max(received, sent),
        last_used=None,
        drops=tuple((drop, count) for drop, count in drops if count),
    )


def _in_band(reqid: int) -> bool:
    return reqid & ~MAX_REQID == _REQID_BAND
