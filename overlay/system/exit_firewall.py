"""What keeps pool addresses inside an exit, whatever address translation does.

Translation belongs to connection tracking, and Linux sends on what tracking does not know, with
its addresses as they are: a late RST, a segment outside the window, an ICMP error about nothing,
everything under another program's ``NOTRACK`` rule. It also replaces destinations, after the exit
policy has judged them. So each exit has four rules beside it::

    forwarded, from a pool ──> tracking knows the connection?               else drop
    forwarded, from a pool ──> the destination is the one that was judged?  else drop
    forwarded, from a pool ──> it came out of a circuit?                    else drop
    after translation ──> the source is in a pool? leaves outside a circuit?     drop

The last one needs a place after translation. nftables has one, iptables has none; there, and
behind nftables as well, ``overlay.system.exit_egress`` stands below the packet filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["OWN_DEVICES", "after_translation", "redirected_connections", "unknown_connections"]

OWN_DEVICES: Final = "anon*"
"""The devices of circuits and of what leads to them; a node may be source and exit at once."""


def unknown_connections(pool: IpNetwork) -> Rule:
    """Return what refuses packets of circuits that connection tracking would not translate."""
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, unknown=True)


def redirected_connections(pool: IpNetwork) -> Rule:
    """Return what refuses packets of circuits whose destination this host has translated.

    The exit policy judged the destination before another program's rule replaced it, perhaps by
    an address of the local network.
    """
    return Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, source=pool, redirected=True)


def after_translation(
    pools: Sequence[IpNetwork], inside: Sequence[str], *, ipsec: bool = False
) -> list[Rule]:
    """Return the rules that judge what leaves by the address that it leaves with.

    Args:
        pools: the networks of inner addresses.
        inside: devices that lead into circuits, beside :data:`OWN_DEVICES`.
        ipsec: whether packets into circuits take no device but a policy.
    """
    hook = Hook.LEAVING
    accepted = [
        Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=each)
        for each in ("lo", OWN_DEVICES, *inside)
    ]
    into = False if ipsec else None
    dropped = [Rule(hook=hook, verdict=Verdict.DROP, source=pool, ipsec_out=into) for pool in pools]
    return [*accepted, *dropped]
