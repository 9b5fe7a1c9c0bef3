"""Packet filter rules that keep pool addresses inside an exit if they are not translated.

Address translation is a part of connection tracking. Linux forwards packets without a tracked
connection with their addresses unchanged. Examples are a late RST, a segment outside the window,
and an ICMP error about an unknown packet. Packets that match a ``NOTRACK`` rule of another program
are not tracked either. Translation may also replace destinations after the exit policy has judged
them. So each exit has four further rules::

    forwarded, from a pool ──> tracking knows the connection?               else drop
    forwarded, from a pool ──> the destination is the one that was judged?  else drop
    forwarded, from a pool ──> it came out of a circuit?                    else drop
    after translation ──> the source is in a pool? leaves outside a circuit?     drop

The last rule needs a hook after translation. nftables has one, iptables does not. With either,
the egress programs of ``overlay.system.exit_egress`` enforce the same below the packet filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["OWN_DEVICES", "after_translation", "redirected_connections", "unknown_connections"]

OWN_DEVICES: Final = "anon*"
"""Names of all devices that lead into circuits; a node may be source and exit at the same time."""


def unknown_connections(pool: IpNetwork) -> Rule:
    """Return the rule that drops packets of circuits without a tracked connection.

    Their source address would not be translated.
    """
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, unknown=True)


def redirected_connections(pool: IpNetwork) -> Rule:
    """Return the rule that drops packets of circuits whose destination was translated.

    The exit policy judged the original destination. A rule of another program may replace it by an
    address of the local network.
    """
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, redirected=True)


def after_translation(
    pools: Sequence[IpNetwork], inside: Sequence[str], *, ipsec: bool = False
) -> list[Rule]:
    """Return the rules that judge packets by their source address after translation.

    Args:
        pools: the networks of inner addresses.
        inside: devices that lead into circuits, besides :data:`OWN_DEVICES`.
        ipsec: whether an IPsec policy and not a device leads into circuits.
    """
    hook = Hook.LEAVING
    accepted = [
        Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=each)
        for each in ("lo", OWN_DEVICES, *inside)
    ]
    into = False if ipsec else None
    dropped = [Rule(hook=hook, verdict=Verdict.DROP, source=pool, ipsec_out=into) for pool in pools]
    return [*accepted, *dropped]
