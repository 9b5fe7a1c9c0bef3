"""Packet filter tables with nftables; each table is replaced in one atomic transaction."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterator
from typing import Any, Final

from overlay.system.failures import refused
from overlay.system.marks import ANSWER_MARK, BRIDGED_MARK, FOREIGN_MARK, LARGE_MARK, STAND_INS
from overlay.system.nftables_state import delete_table, table_fingerprint, table_notes
from overlay.system.packet_filter import (
    HOP_LIMIT,
    REFUSALS_PER_S,
    REFUSED_GROUP,
    ConnectionLimit,
    FilterTable,
    Hook,
    RateLimit,
    Rule,
    Verdict,
    run_filter_tool,
    silently,
    tool_refused,
)
from overlay.system.rule_conditions import Condition, Words, render_conditions

__all__ = ["Nftables", "render_nftables"]

_PRIORITIES: Final = {
    Hook.EARLY: "-450",  # before fragments are reassembled (-400)
    Hook.PREROUTING: "mangle",  # after connection tracking, before the routing decision
    Hook.INPUT: "filter",
    Hook.FORWARD: "filter",
    Hook.OUTPUT: "mangle",  # before addresses are translated
    Hook.POSTROUTING: "filter",  # before source NAT, because the rules name inner addresses
    Hook.LEAVING: "srcnat + 10",  # after source NAT
}

_DONT_FRAGMENT: Final = 0x4000
_FLAGS_AND_OFFSET: Final = 0x7FFF
"""Mask of the 16 bits that nftables calls ``frag-off``: all except the reserved one (RFC 791)."""

_SHOW: Final = (
    f"limit rate {REFUSALS_PER_S}/second burst {REFUSALS_PER_S} packets"
    f" log group {REFUSED_GROUP} queue-threshold 1"
)

_COUNTED: Final = "counted"

_SET_SIZE: Final = 65536
"""Limit of sources in a set; an exit lends fewer addresses."""

_HOOKS: Final = {Hook.EARLY: Hook.PREROUTING.value, Hook.LEAVING: Hook.POSTROUTING.value}
"""The kernel's name of a hook, if it differs from ours."""

_TRANSLATIONS: Final = {
    Hook.INPUT: ("standing_in", "type nat hook input priority 100; policy accept;"),
    Hook.POSTROUTING: ("translation", "type nat hook postrouting priority srcnat; policy accept;"),
}
"""Hook of address translation -> name and head of the chain."""

_PROBE: Final = """table inet anonymous_overlay_probe {
  chain probe {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 192.0.2.0/24 ct state established masquerade
    ip6 saddr 2001:db8::/32 masquerade
  }
}
"""


_ARP_PROBE: Final = """table arp anonymous_overlay_probe {
  chain probe {
    type filter hook input priority filter; policy accept;
    arp saddr ip 192.0.2.0/24 meta mark set 0x1
  }
}
"""


_BRIDGE_PROBE: Final = """table bridge anonymous_overlay_probe {
  chain probe {
    type filter hook prerouting priority -300; policy accept;
    meta pkttype other meta mark set 0x1
  }
}
"""


_SHOW_PROBE: Final = f"""table inet anonymous_overlay_probe {{
  chain probe {{
    type filter hook forward priority filter; policy accept;
    ip saddr 192.0.2.0/24 {_SHOW}
  }}
}}
"""


class Nftables:
    """The ``nft`` program (1.0 or later)."""

    clears_flow_labels = True

    def __init__(self) -> None:
        """Prepare; the kernel is not tested yet."""
        self._known: dict[str, bool] = {}

    def _knows(self, probe: str) -> bool:
        if probe not in self._known:
            done = run_filter_tool(["nft", "--check", "--file", "-"], probe)
            self._known[probe] = done.returncode == 0
        return self._known[probe]

    def _knows_arp(self) -> bool:
        return self._knows(_ARP_PROBE)

    def usable(self) -> bool:
        """Tell whether this kernel supports tables for both IP versions; nothing is changed."""
        return run_filter_tool(["nft", "--check", "--file", "-"], _PROBE).returncode == 0

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        if not self._knows(_SHOW_PROBE):
            table = silently(table)
        script = render_nftables(table)
        if self._knows_arp():
            script += render_arp(table)
        if self._knows(_BRIDGE_PROBE):
            script += render_bridge(table)
        done = run_filter_tool(["nft", "--file", "-"], script)
        if done.returncode != 0:
            raise tool_refused("setting the packet filter with nft", done)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        try:
            delete_table(_table_name(name))
        except OSError as error:
            raise refused("removing the packet filter of nftables", error) from error

    def notes(self, name: str) -> tuple[str, ...] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        try:
            return table_notes(_table_name(name))
        except OSError as error:
            raise refused("reading the packet filter", error) from error

    def fingerprint(self, name: str) -> bytes | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        try:
            return table_fingerprint(_table_name(name))
        except OSError as error:
            raise refused("reading the packet filter", error) from error

    def counted(self, name: str) -> dict[int, int] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        rules = _listed_rules(name)
        if rules is None:
            return None
        found: dict[int, int] = {}
        for rule in rules:
            if rule.get("comment") == _COUNTED:
                version = _version(rule["expr"])
                packets = sum(each.get("counter", {}).get("packets", 0) for each in rule["expr"])
                found[version] = found.get(version, 0) + packets
        return found


def _listed_rules(name: str) -> list[dict[str, Any]] | None:
    """Return a table's rules without the content of its sets; None if there is no such table."""
    # --terse leaves out the sets' elements; an exit's sets have one for each circuit.
    done = run_filter_tool(["nft", "--json", "--terse", "list", "table", "inet", _table_name(name)])
    if done.returncode != 0:
        return None
    return [entry["rule"] for entry in json.loads(done.stdout)["nftables"] if "rule" in entry]


def _version(expressions: list[dict[str, Any]]) -> int:
    """Return the IP version of a rule that names an address."""
    payloads = [each.get("match", {}).get("left", {}).get("payload", {}) for each in expressions]
    return 6 if any(payload.get("protocol") == "ip6" for payload in payloads) else 4


def render_nftables(table: FilterTable) -> str:
    """Return the script that replaces a table in one transaction."""
    name = _table_name(table.name)
    chains = [line for index, rule in enumerate(table.rules) for line in _counters(index, rule)]
    chains += [
        chunk
        for hook in Hook
        for chunk in _chain(
            hook.value,
            f"type filter hook {_HOOKS.get(hook, hook.value)} priority {_PRIORITIES[hook]}; "
            "policy accept;",
            [
                line
                for index, rule in enumerate(table.rules)
                if rule.hook is hook
                and rule.verdict is not Verdict.BRIDGED
                and not rule.verdict.translates
                for line in _lines(rule, table.mark, index)
            ],
        )
    ]
    for hook, (chain, head) in _TRANSLATIONS.items():
        rules = [r for r in table.rules if r.hook is hook and r.verdict.translates]
        chains += _chain(chain, head, [_line(rule, table.mark) for rule in rules])
    chains += _chain("notes", "", [f'return comment "{note}"' for note in table.notes])
    body = "\n".join(chains)
    return f"table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{body}\n}}\n"


def render_arp(table: FilterTable) -> str:
    """Return the script that marks ARP packets in the same way as incoming IPv4 packets.

    The kernel answers ARP after a reverse-path check (rp_filter), which needs the mark. The mark
    also selects the route by which the kernel answers for other hosts (proxy_arp).
    """
    name = _table_name(table.name)
    lines = [
        f"arp {field} ip {network} {_statement(rule, table.mark)}"
        for rule in table.rules
        if rule.hook is Hook.EARLY and rule.verdict is Verdict.ANSWER and rule.ip_version == 4
        for field, network in (("saddr", rule.source), ("daddr", rule.destination))
        if network is not None
    ]
    head = "type filter hook input priority filter; policy accept;"
    body = "\n".join(_chain("input", head, lines))
    gone = f"table arp {name}\ndelete table arp {name}\n"
    return f"{gone}table arp {name} {{\n{body}\n}}\n" if lines else gone


def render_bridge(table: FilterTable) -> str:
    """Return the script that marks frames which bridges forward; see :attr:`Verdict.BRIDGED`.

    Only the family ``bridge`` sees the packet type of frames for other hosts. br_netfilter, which
    passes frames to the other tables, hides the type.
    """
    name = _table_name(table.name)
    gone = f"table bridge {name}\ndelete table bridge {name}\n"
    if all(rule.verdict is not Verdict.BRIDGED for rule in table.rules):
        return gone
    head = "type filter hook prerouting priority -300; policy accept;"
    lines = [f"meta pkttype other meta mark set {BRIDGED_MARK:#x}"]
    body = "\n".join(_chain("prerouting", head, lines))
    return f"{gone}table bridge {name} {{\n{body}\n}}\n"


def _table_name(name: str) -> str:
    return "anonymous_overlay_" + name.replace("-", "_")


def _chain(name: str, head: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    inside = "\n".join(f"    {line}" for line in ([head] if head else []) + lines)
    return [f"  chain {name} {{\n{inside}\n  }}"]


def _counters(index: int, rule: Rule) -> list[str]:
    """Return the set in which the kernel counts for a rule with a limit, if it has one."""
    if rule.over is None:
        return []
    kind = "ipv6_addr" if rule.ip_version == 6 else "ipv4_addr"
    # Elements of connection limits disappear when their connections end. Those of rates need a
    # timeout; they expire 60 s after the last connection.
    rests = " timeout 60s;" if isinstance(rule.over, RateLimit) else ""
    return [f"  set {_set_name(index)} {{ type {kind}; size {_SET_SIZE}; flags dynamic;{rests} }}"]


def _set_name(index: int) -> str:
    return f"counted_{index}"


def _lines(rule: Rule, mark: int, index: int) -> Iterator[str]:
    if rule.verdict is Verdict.REFUSE:
        yield " ".join((*_conditions(rule, mark), _SHOW))
        rule = dataclasses.replace(rule, verdict=Verdict.DROP)
    yield _line(rule, mark, index)


def _line(rule: Rule, mark: int, index: int = 0) -> str:
    conditions = (*_conditions(rule, mark), *_limit(rule, index))
    if not rule.counted:
        return " ".join((*conditions, _statement(rule, mark)))
    return " ".join((*conditions, "counter", _statement(rule, mark), f'comment "{_COUNTED}"'))


def _limit(rule: Rule, index: int) -> Iterator[str]:
    if rule.over is None:
        return
    version = rule.ip_version or 4
    key = "ip6 saddr" if version == 6 else "ip saddr"
    mask = ipaddress.ip_network(("::" if version == 6 else "0.0.0.0", rule.over.prefix_length))
    if mask.prefixlen < mask.max_prefixlen:
        key += f" & {mask.netmask}"
    match rule.over:
        case ConnectionLimit(connections=most):
            over = f"ct count over {most}"
        case RateLimit(per_second=rate, burst=burst):
            over = f"limit rate over {rate}/second burst {burst} packets"
    # A connection becomes confirmed when its first packet has left, so each one is counted once.
    yield f"ct state new ct status ! confirmed update @{_set_name(index)} {{ {key} {over} }}"


def _conditions(rule: Rule, mark: int) -> Iterator[str]:
    return render_conditions(rule, mark, _WORDS)


def _family(rule: Rule) -> str:
    return "ip6" if rule.ip_version == 6 else "ip"


_WORDS: Final[Words] = {
    Condition.IP_VERSION: lambda version, _: f"meta nfproto ipv{version}",
    Condition.IN_DEVICE: lambda name, _: f'iifname "{name}"',
    Condition.NOT_IN_DEVICE: lambda name, _: f'iifname != "{name}"',
    Condition.OUT_DEVICE: lambda name, _: f'oifname "{name}"',
    Condition.SOURCE: lambda network, rule: f"{_family(rule)} saddr {network}",
    Condition.NOT_SOURCE: lambda network, rule: f"{_family(rule)} saddr != {network}",
    Condition.DESTINATION: lambda network, rule: f"{_family(rule)} daddr {network}",
    Condition.HAS_MARK: lambda mark, _: f"meta mark {mark:#x}",
    Condition.MARK: lambda mark, _: f"meta mark {mark:#x}",
    Condition.REPLY: lambda *_: "ct direction reply ct state established,related",
    Condition.UNKNOWN: lambda *_: "ct state invalid,untracked",
    Condition.REDIRECTED: lambda *_: "ct status dnat",
    Condition.REPLY_DESTINATION: lambda network, rule: f"ct reply {_family(rule)} daddr {network}",
    Condition.LOCAL: lambda *_: "fib daddr type local",
    Condition.CONNECTION_MARK: lambda mark, _: f"ct mark {mark:#x}",
    Condition.PROTOCOL: lambda number, _: f"meta l4proto {number}",
    Condition.ICMP_TYPE: lambda number, rule: (
        f"{'icmpv6' if rule.ip_version == 6 else 'icmp'} type {number}"
    ),
    Condition.PORTS: lambda ports, _: f"th dport {ports[0]}-{ports[1]}",
    Condition.LONGER_THAN: lambda size, _: f"meta length > {size}",
    Condition.AT_MOST: lambda size, _: f"meta length <= {size}",
    Condition.LABELLED: lambda *_: "ip6 flowlabel != 0",
    Condition.FRAGMENTABLE: lambda *_: f"ip frag-off & {_FLAGS_AND_OFFSET:#x} == 0x0",
    Condition.UNFRAGMENTABLE: lambda *_: (
        f"ip frag-off & {_FLAGS_AND_OFFSET:#x} == {_DONT_FRAGMENT:#x}"
    ),
    Condition.IPSEC_IN: lambda exists, _: f"meta ipsec {'exists' if exists else 'missing'}",
    Condition.IPSEC_OUT: lambda exists, _: f"rt ipsec {'exists' if exists else 'missing'}",
    Condition.TCP_SYN: lambda *_: "tcp flags & (syn | rst) == syn",
}
"""Without ``BRIDGED``, which :func:`render_bridge` writes for the family ``bridge``."""


def _statement(rule: Rule, mark: int) -> str:
    match rule.verdict:
        case Verdict.MARK:
            return f"meta mark set {mark:#x} ct mark set {mark:#x}"
        case Verdict.RESTORE_MARK:
            return f"meta mark set {mark:#x}"
        case Verdict.ANSWER:
            return f"meta mark set {ANSWER_MARK:#x}"
        case Verdict.PASS_ON:
            return f"meta mark set {BRIDGED_MARK:#x}"
        case Verdict.FOREIGN:
            return f"meta mark set {FOREIGN_MARK:#x}"
        case Verdict.UNMARK:
            return "meta mark set 0x0"
        case Verdict.STAND_IN:
            version = rule.ip_version or 4
            return f"snat ip{'6' if version == 6 else ''} to {STAND_INS[version]}"
        case Verdict.LARGE:
            return f"meta mark set {LARGE_MARK:#x}"
        case Verdict.CLAMP_MSS:
            return f"tcp option maxseg size set {rule.segment or 'rt mtu'}"
        case Verdict.HOP_LIMIT:
            field = "ip6 hoplimit" if rule.ip_version == 6 else "ip ttl"
            return f"{field} set {HOP_LIMIT}"
        case Verdict.TRAFFIC_CLASS:
            if rule.ip_version == 6:
                return "ip6 dscp set cs0 ip6 ecn set not-ect"
            return "ip dscp set cs0 ip ecn set not-ect"
        case Verdict.FLOW_LABEL:
            return "ip6 flowlabel set 0"
        case Verdict.DONT_FRAGMENT:
            return f"ip frag-off set {_DONT_FRAGMENT:#x}"
        case Verdict.IDENTIFICATION:
            return "ip id set 0"
        case Verdict.STRIP_TIMESTAMPS:
            return "reset tcp option timestamp"
        case _:
            return str(rule.verdict.value)
