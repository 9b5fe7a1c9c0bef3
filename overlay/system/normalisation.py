"""Packet filter rules that normalise header fields of packets that enter or leave a circuit.

Linux copies the flow label of an encapsulated packet into each outer IPv6 header, so an inner flow
label would be visible on every link. The other fields are not copied. But they disclose properties
of the host at one end of the circuit to the other end::

    hop limit, TTL                64
    DSCP, ECN, flow label         0
    IPv4 identification           0 if it has no purpose (RFC 6864, section 4.1)
    don't fragment (IPv4)         set on packets that are not fragments and surely fit

A packet that still has a flow label is dropped. nftables clears the label. iptables cannot, so
traffic control clears it on each device (``overlay.system.flow_labels``). The rule to drop covers
devices on which traffic control does not.

Reasons: docs/decisions/0034.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["SURELY_CARRIED", "normalising_rules"]

SURELY_CARRIED: Final = 1280
"""Size in bytes up to which "don't fragment" may be set.

Every link on the Internet carries it, because IPv6 requires it (RFC 8200, section 5). IPv4 requires
only 576 bytes, but its links carry IPv6 as well.
"""


def normalising_rules(
    matching: Rule, *, at_most: int = SURELY_CARRIED, drop_labels: bool = True
) -> list[Rule]:
    """Return rules for postrouting; none of them is final, except a last one that may drop.

    Args:
        matching: a rule whose conditions are used; they must fix an IP version. Its hook and
            verdict are ignored.
        at_most: size in bytes of the largest packet that gets "don't fragment" (IPv4).
        drop_labels: whether to drop packets that still have a flow label (IPv6).
    """
    every = replace(matching, hook=Hook.POSTROUTING, verdict=Verdict.HOP_LIMIT)
    rules = [every, replace(every, verdict=Verdict.TRAFFIC_CLASS)]
    if every.ip_version == 4:
        # Set "don't fragment" first, because only packets with it need no identification.
        return [
            *rules,
            replace(every, verdict=Verdict.DONT_FRAGMENT, at_most=at_most),
            replace(every, verdict=Verdict.IDENTIFICATION),
        ]
    rules.append(replace(every, verdict=Verdict.FLOW_LABEL))
    if drop_labels:
        rules.append(replace(every, verdict=Verdict.DROP, labelled=True))
    return rules
