"""Packet filter rules as values, and the interface of the programs that install them.

A :class:`FilterTable` is always replaced as a whole. So the rules are a pure function of the wanted
state, and installing them again changes nothing. Rules that a killed node left do not matter.
Packets meet the hooks in this order::
    early ─> prerouting ──┬─> input                                (this host)
                          └─> forward ─> postrouting ─> leaving    (elsewhere)
    this host's programs ─> output ────> postrouting ─> leaving
"""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.system.failures import privilege_remedy, refused
from overlay.system.marks import LARGE_MARK
from overlay.system.programs import find_program

__all__ = [
    "HOP_LIMIT",
    "LARGE_MARK",
    "REFUSALS_PER_S",
    "REFUSED_GROUP",
    "ConnectionLimit",
    "FilterTable",
    "Hook",
    "PacketFilter",
    "RateLimit",
    "Rule",
    "Verdict",
    "run_filter_tool",
    "silently",
    "tool_refused",
]

_TOOL_S: Final = 10.0
"""Time limit of one call of nft or iptables, in seconds.

A call usually takes tens of milliseconds, and about a second under load.
"""


REFUSED_GROUP: Final = 6978
"""The netlink group that receives refused packets.

One number suffices, because one node of the kernel backend owns the IPsec of a network namespace.
"""

REFUSALS_PER_S: Final = 20
"""Packets per second, and burst in packets, that each rule shows to the node.

The node answers each with an ICMP error; 20 per second are a small load.
"""

HOP_LIMIT: Final = 64
"""Initial TTL or hop limit of all packets of a source; the same as in ``overlay.forwarding``."""


class Hook(enum.Enum):
    """The point in the kernel at which a packet is judged."""

    EARLY = "early"
    """Before connection tracking; with nftables also before fragments are reassembled."""
    PREROUTING = "prerouting"
    """After connection tracking, before destination addresses are translated."""
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"
    LEAVING = "leaving"
    """After postrouting and the translation of addresses; iptables has no such hook."""


class Verdict(enum.Enum):
    """What happens to a packet that a rule matches."""

    ACCEPT = "accept"
    """Skip the further rules of this table and hook; other tables still judge the packet."""
    DROP = "drop"
    REFUSE = "refuse"
    """Drop; also show up to ``REFUSALS_PER_S`` packets to the node, which answers them."""
    MARK = "mark"
    """Set the packet's and its connection's firewall mark to the table's; go on."""
    RESTORE_MARK = "restore mark"
    """Set the packet's mark to the table's if its connection has that mark; go on."""
    CLAMP_MSS = "clamp mss"
    """Lower the MSS in a TCP SYN to the size that the route's MTU allows; go on."""
    MASQUERADE = "masquerade"
    """Replace the source address by that of the outgoing device (only in postrouting)."""
    HOP_LIMIT = "hop limit"
    """Set TTL or hop limit to 64; go on. The rule names an IP version, as for the next verdict."""
    TRAFFIC_CLASS = "traffic class"
    """Set DSCP and ECN to 0; go on."""
    FLOW_LABEL = "flow label"
    """Set the flow label to 0; go on. iptables skips this verdict and the next two."""
    DONT_FRAGMENT = "don't fragment"
    """Set DF in an IPv4 packet that is not a fragment; go on."""
    IDENTIFICATION = "identification"
    """Set the identification of an IPv4 packet with DF to 0; go on."""
    ANSWER = "answer"
    """Set the packet's mark to :data:`~overlay.system.marks.ANSWER_MARK`; go on."""
    BRIDGED = "bridged"
    """Set the mark of frames that a bridge forwards for other hosts to
    :data:`~overlay.system.marks.BRIDGED_MARK`; go on. The rule has the hook FORWARD and no
    condition. nftables does it before the EARLY hook; iptables needs the match ``physdev``."""
    FOREIGN = "foreign"
    """Set the packet's mark to :data:`~overlay.system.marks.FOREIGN_MARK`; go on."""
    PASS_ON = "pass on"
    """Set the packet's mark to :data:`~overlay.system.marks.BRIDGED_MARK`; go on."""
    UNMARK = "unmark"
    """Set the packet's mark to 0; go on."""
    STAND_IN = "stand in"
    """Replace the source address with the stand-in of its IP version (input, postrouting)."""
    LARGE = "large"
    """Set the packet's mark to :data:`LARGE_MARK`; go on."""
    STRIP_TIMESTAMPS = "strip timestamps"
    """Remove the timestamps option from a TCP SYN, so that neither end uses it; go on."""

    @property
    def translates(self) -> bool:
        """Whether the verdict translates addresses, which needs a separate chain."""
        return self in (Verdict.MASQUERADE, Verdict.STAND_IN)


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """Matches if more than ``connections`` at a time come from one prefix of ``prefix_length``."""

    prefix_length: int
    connections: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Matches if one prefix begins more than ``per_second`` connections, after ``burst``."""

    prefix_length: int
    per_second: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A verdict, and conditions that must all hold. Networks also fix the IP version.

    Attributes:
        has_mark: the packet has the mark of the table.
        mark: the packet has this other mark.
        reply: the packet is in the reply direction of a known connection, which the receiver or a
            host behind it began. An ICMP error about a packet of the other direction counts as
            well. A connection that a helper of connection tracking expects does not.
        unknown: connection tracking has no connection for the packet, so that its addresses are
            not translated.
        redirected: the destination of the packet's connection is translated.
        reply_destination: the destination of the connection's replies, before any translation.
        local: this host has the destination address.
        ports: first and last destination port; ``protocol`` must be TCP or UDP.
        icmp_type: ICMP type; ``protocol`` must be ICMP or ICMPv6.
        longer_than, at_most: size of the whole packet in bytes.
        labelled: the IPv6 flow label is not 0.
        ipsec_in: whether the packet came out of an IPsec tunnel (not in postrouting); None
            matches both.
        ipsec_out: whether a policy will put the packet into a tunnel (in forward and later
            hooks); None matches both.
        in_device, not_in_device, out_device: a name that ends with ``*`` matches a prefix.
        counted: :meth:`PacketFilter.counted` counts the packets that match the rule.
        over: matches the first packet of a connection that exceeds the limit; the rule must
            name a source.
        segment: MSS in bytes for :attr:`Verdict.CLAMP_MSS`, instead of the size that the route's
            MTU allows; the rule must name an IP version.
    """

    hook: Hook
    verdict: Verdict
    version: int | None = None
    in_device: str | None = None
    not_in_device: str | None = None
    out_device: str | None = None
    source: IpNetwork | None = None
    not_source: IpNetwork | None = None
    destination: IpNetwork | None = None
    has_mark: bool = False
    mark: int | None = None
    reply: bool = False
    unknown: bool = False
    redirected: bool = False
    reply_destination: IpNetwork | None = None
    local: bool = False
    protocol: int | None = None
    ports: tuple[int, int] | None = None
    icmp_type: int | None = None
    longer_than: int | None = None
    at_most: int | None = None
    labelled: bool = False
    ipsec_in: bool | None = None
    ipsec_out: bool | None = None
    over: ConnectionLimit | RateLimit | None = None
    counted: bool = False
    segment: int | None = None

    @property
    def ip_version(self) -> int | None:
        """4 or 6, or None for a rule that matches both."""
        for network in (
            self.source,
            self.not_source,
            self.destination,
            self.reply_destination,
        ):
            if network is not None:
                return network.version
        return self.version


@dataclass(frozen=True, slots=True)
class FilterTable:
    """All rules of one purpose, with ``notes`` that are read again after a crash.

    ``name`` has at most 16 letters, digits and hyphens. A note has at most 120 printable
    characters without quotation marks.
    """

    name: str
    mark: int
    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()


def silently(table: FilterTable) -> FilterTable:
    """Return the table with DROP in place of REFUSE, for kernels that cannot show packets."""
    rules = tuple(
        replace(rule, verdict=Verdict.DROP) if rule.verdict is Verdict.REFUSE else rule
        for rule in table.rules
    )
    return replace(table, rules=rules)


class PacketFilter(Protocol):
    """The interface of nftables and iptables; both change only their own rules."""

    clears_flow_labels: bool
    """Whether :attr:`Verdict.FLOW_LABEL` has an effect."""

    def replace(self, table: FilterTable) -> None:
        """Replace the table of the same name atomically, or install it.

        Raises:
            BackendError: the kernel or the tool refused.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a table; it need not exist."""
        ...

    def notes(self, name: str) -> tuple[str, ...] | None:
        """Return the notes kept with a table, or None if there is no such table."""
        ...

    def fingerprint(self, name: str) -> bytes | None:
        """Return bytes that change if and only if the kernel's table changes; None without one.

        Raises:
            BackendError: the table could not be read.
        """
        ...

    def counted(self, name: str) -> dict[int, int] | None:
        """Return the number of packets that counted rules matched, by IP version.

        The result is None if there is no such table, or if packets no longer reach its rules.
        """
        ...


def run_filter_tool(
    argv: Sequence[str], text_input: str = "", *, within_s: float = _TOOL_S
) -> subprocess.CompletedProcess[str]:
    """Run nft or iptables, which takes tens of milliseconds, and return its output.

    Raises:
        BackendError: the program is missing, cannot be started, or does not end ``within_s``.
    """
    program = find_program(argv[0])
    if program is None:
        package = "nftables" if argv[0] == "nft" else "iptables"
        raise BackendError(
            f"changing the packet filter failed ({argv[0]} is not installed): "
            f"install the package {package}."
        )
    try:
        return subprocess.run(
            [program, *argv[1:]],
            input=text_input,
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{argv[0]} did not end within {within_s:.0f} s: end the program that keeps the packet "
            "filter locked."
        ) from error
    except OSError as error:
        raise refused(f"starting {argv[0]}", error) from error


def tool_refused(what: str, done: subprocess.CompletedProcess[str]) -> BackendError:
    """Return the error for a tool that failed, with the first line of its output."""
    said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
    return BackendError(f"{what} failed ({said}): {privilege_remedy()}.")
