"""Header fields that a packet filter makes alike, wherever a packet enters or leaves a circuit.

Linux copies the flow label of what it encapsulates into each outer IPv6 header, so a label that
stands once inside is seen on every link. The other fields are not copied; they tell the far end
of the circuit something about the host of the near one::

    hop limit, TTL                64
    DSCP, ECN, flow label         0
    IPv4 identification           0 where it serves nothing (RFC 6864, section 4.1)
    don't fragment (IPv4)         set on what is no fragment, and surely fits

What still has a flow label is dropped. nftables clears it itself; with iptables, which cannot,
traffic control does so at each device (``overlay.system.flow_labels``), and this rule stands for
the devices where it does not.

Reasons: docs/decisions/0034.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["SURELY_CARRIED", "normalising_rules"]

SURELY_CARRIED: Final = 1280
"""Bytes of a packet that may be marked as not to be fragmented: no path on the Internet carries
less (RFC 8200, section 5, for IPv6; IPv4 asks for 576 only, but its links carry IPv6 as well)."""


def normalising_rules(
    matching: Rule, *, at_most: int = SURELY_CARRIED, drop_labels: bool = True
) -> list[Rule]:
    """Return rules for postrouting; only the last one may end a packet's way, by dropping it.

    Args:
        matching: its conditions, which fix an IP version; its hook and verdict do not count.
        at_most: bytes of the largest packet that the rest of its way carries in one piece.
        drop_labels: whether to drop what still has a flow label.
    """
    every = replace(matching, hook=Hook.POSTROUTING, verdict=Verdict.HOP_LIMIT)
    rules = [every, replace(every, verdict=Verdict.TRAFFIC_CLASS)]
    if every.ip_version == 4:
        # Only what has "don't fragment" set needs no identification, so that comes first.
        return [
            *rules,
            replace(every, verdict=Verdict.DONT_FRAGMENT, at_most=at_most),
            replace(every, verdict=Verdict.IDENTIFICATION),
        ]
    rules.append(replace(every, verdict=Verdict.FLOW_LABEL))
    if drop_labels:
        rules.append(replace(every, verdict=Verdict.DROP, labelled=True))
    return rules
