"""Packet filter rules as values, and where the host can put them: nftables or iptables.

A :class:`FilterTable` is replaced as a whole, so the rules are a pure function of what they
should do, repeating is harmless, and nothing depends on what a killed node left behind.

::

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
"""How long nft or iptables may take; some ten milliseconds are usual, a second under load."""


REFUSED_GROUP: Final = 6978
"""The netlink group of refused packets. A node of the kernel backend owns the IPsec of its network
namespace, so two nodes do not meet there."""

REFUSALS_PER_S: Final = 20
"""How many packets each rule shows a second, and at once. So many errors do not load a circuit."""

HOP_LIMIT: Final = 64
"""What every packet of every source starts with; the same in ``overlay.forwarding``."""


class Hook(enum.Enum):
    """Where on its way through the kernel a packet is judged."""

    EARLY = "early"
    """Before connection tracking; with nftables also before fragments are put together."""
    PREROUTING = "prerouting"
    """After connection tracking, before destination addresses are translated."""
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"
    LEAVING = "leaving"
    """After postrouting and the translation of addresses; iptables has no such place."""


class Verdict(enum.Enum):
    """What happens to a packet that a rule matches."""

    ACCEPT = "accept"
    """No further rule of this table and hook is asked; other tables still are."""
    DROP = "drop"
    REFUSE = "refuse"
    """Drop, and show some packets a second to the node, so that it can answer them."""
    MARK = "mark"
    """Set the packet's and its connection's firewall mark to the table's; go on."""
    RESTORE_MARK = "restore mark"
    """Give a packet of a connection that carries the table's mark that mark; go on."""
    CLAMP_MSS = "clamp mss"
    """Lower the TCP segment size that a SYN announces to what the route's MTU allows; go on."""
    MASQUERADE = "masquerade"
    """Replace the source address with the outgoing device's (postrouting alone)."""
    HOP_LIMIT = "hop limit"
    """Set TTL or hop limit to 64; go on. The rule names an IP version, as for the next one."""
    TRAFFIC_CLASS = "traffic class"
    """Set DSCP and ECN to 0; go on."""
    FLOW_LABEL = "flow label"
    """Set the flow label to 0; go on. iptables cannot do it and goes on, as for the next two."""
    DONT_FRAGMENT = "don't fragment"
    """Mark an IPv4 packet that is no fragment as not to be fragmented; go on."""
    IDENTIFICATION = "identification"
    """Set the identification of an IPv4 packet that may not be fragmented to 0; go on."""
    ANSWER = "answer"
    """Set the packet's mark to :data:`~overlay.system.marks.ANSWER_MARK`; go on."""
    BRIDGED = "bridged"
    """Set the mark of what a bridge passes on for other hosts to
    :data:`~overlay.system.marks.BRIDGED_MARK`; go on. The rule has the hook FORWARD and no
    condition. Nftables does it before the EARLY hook. iptables needs the match ``physdev``."""
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
    """Take the timestamps option out of a TCP SYN, so that neither end uses it; go on."""

    @property
    def translates(self) -> bool:
        """Whether the verdict is about addresses, which belongs to a chain of its own."""
        return self in (Verdict.MASQUERADE, Verdict.STAND_IN)


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """More than ``connections`` at a time whose sources begin with the same bits."""

    prefix_length: int
    connections: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """More than ``per_second`` new connections (after ``burst`` at once) of such sources."""

    prefix_length: int
    per_second: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Conditions that must all hold, and the verdict. Networks also fix the IP version.

    ``has_mark`` means the table's mark, ``mark`` a certain other one. ``reply`` means that the
    packet has the reply direction of a known connection: the receiver, or a host behind it, began
    it. An ICMP error about a packet of the other direction counts as well; what a helper of
    connection tracking expects does not. ``unknown`` means that connection tracking has no
    connection for it, so that none of its addresses is translated. ``redirected`` means that the
    destination of its connection is translated. ``reply_destination`` is the address that replies
    of the packet's connection go to, before any translation. ``local``
    means that this host has the destination address. ``ports`` are the first and last destination
    port, for a ``protocol`` of TCP or UDP. ``icmp_type`` is for a ``protocol`` of ICMP or ICMPv6.
    ``longer_than`` and ``at_most`` are bytes of the whole packet. ``labelled`` means that an IPv6
    flow label is not 0. ``ipsec_in`` tells whether the packet came out of an IPsec tunnel (not for
    postrouting), ``ipsec_out`` whether a policy will put it into one (for forward and the hooks
    after it); None is for both. A device's name that ends with ``*`` is for all that begin alike.
    ``counted`` lets :meth:`PacketFilter.counted` tell how many packets the rule has matched.
    ``over`` matches the first packet of a connection that exceeds a limit; the rule names a source.
    ``segment`` is the size in bytes to which :attr:`Verdict.CLAMP_MSS` lowers what a SYN announces,
    instead of the size that the route's MTU allows; the rule names an IP version.
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
        """4 or 6, or None for a rule that speaks of both."""
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
    """All rules of one purpose; ``notes`` are kept with them and read back after a crash.

    ``name`` has at most 16 letters, digits and hyphens; a note at most 120 printable
    characters without quotation marks.
    """

    name: str
    mark: int
    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()


def silently(table: FilterTable) -> FilterTable:
    """Return a table that drops what it would refuse, for kernels that cannot show packets."""
    rules = tuple(
        replace(rule, verdict=Verdict.DROP) if rule.verdict is Verdict.REFUSE else rule
        for rule in table.rules
    )
    return replace(table, rules=rules)


class PacketFilter(Protocol):
    """Nftables or iptables; neither touches any rule but its own."""

    clears_flow_labels: bool
    """Whether :attr:`Verdict.FLOW_LABEL` does something."""

    def replace(self, table: FilterTable) -> None:
        """Install a table in place of the one of that name, without a moment of neither.

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
        """Return what changes if and only if the table in the kernel does; None without one.

        Raises:
            BackendError: the kernel did not tell.
        """
        ...

    def counted(self, name: str) -> dict[int, int] | None:
        """Return how many packets the counted rules matched, by IP version.

        None if there is no such table, or if its rules are not reached any more.
        """
        ...


def run_filter_tool(
    argv: Sequence[str], text_input: str = "", *, within_s: float = _TOOL_S
) -> subprocess.CompletedProcess[str]:
    """Run nft or iptables to its end (some ten milliseconds) and return what it said.

    Raises:
        BackendError: the program is missing, cannot be started, or does not end in time.
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
    """Return the error for a tool that failed, with the first line of what it said."""
    said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
    return BackendError(f"{what} failed ({said}): {privilege_remedy()}.")
