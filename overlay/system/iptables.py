"""Packet filter tables with legacy iptables, for kernels whose nftables lacks families.

Each hook has one chain, with one jump from the built-in chain. The chains are in the kernel's table
``mangle``, except ``raw`` before connection tracking and ``nat`` for address translation. No table
has a hook after address translation, so rules of ``Hook.LEAVING`` are left out.
``iptables-restore --noflush`` replaces the content of all chains of one kernel table atomically.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

from overlay.errors import BackendError
from overlay.system.failures import refused
from overlay.system.iptables_state import comments, find_chains, read_table
from overlay.system.marks import ANSWER_MARK, BRIDGED_MARK, FOREIGN_MARK, LARGE_MARK, STAND_INS
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

__all__ = ["Iptables", "render_iptables"]

_PROGRAMS: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_HOOK_SUFFIXES: Final = {
    Hook.PREROUTING: "PRE",
    Hook.INPUT: "IN",
    Hook.FORWARD: "FWD",
    Hook.OUTPUT: "OUT",
    Hook.POSTROUTING: "POST",
}
_HOOK_NUMBERS: Final = {hook.name: number for number, hook in enumerate(_HOOK_SUFFIXES)}
"""NF_INET_PRE_ROUTING is 0 (Linux uapi ``linux/netfilter.h``); the order is the same."""

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_UNSUPPORTED: Final = frozenset((Verdict.FLOW_LABEL, Verdict.DONT_FRAGMENT, Verdict.IDENTIFICATION))
_FLOW_LABEL: Final = "0&0xFFFFF=1:0xFFFFF"
"""A u32 match: the last 20 bits of an IPv6 header's first word, the flow label, are not 0."""

_SHOW: Final = (
    f"-m limit --limit {REFUSALS_PER_S}/sec --limit-burst {REFUSALS_PER_S}"
    f" -j NFLOG --nflog-group {REFUSED_GROUP} --nflog-threshold 1"
)

_COUNTED: Final = "counted"
_COUNT: Final = re.compile(rf'--comment "?{_COUNTED}"? -c (\d+) ')
_WAIT: Final = ("-w", "2")
"""Wait at most 2 s for the lock of all programs that change legacy iptables."""


class Iptables:
    """The ``iptables-legacy`` and ``ip6tables-legacy`` programs."""

    clears_flow_labels = False

    def usable(self) -> bool:
        """Tell whether both programs are installed and can read their tables."""
        try:
            return all(
                run_filter_tool([program, *_WAIT, "-t", "mangle", "-S"]).returncode == 0
                for program in _PROGRAMS.values()
            )
        except BackendError:
            return False

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        if not _knows_bridges():
            rules = tuple(r for r in table.rules if r.verdict is not Verdict.BRIDGED)
            table = dataclasses.replace(table, rules=rules)
        for version, program in _PROGRAMS.items():
            done = _restore(table, version, program)
            # A kernel without NFLOG or limit cannot show refused packets, so only drop them.
            if done.returncode != 0 and silently(table) != table:
                done = _restore(silently(table), version, program)
            if done.returncode != 0:
                raise tool_refused(f"setting the packet filter with {program}", done)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        ours = {chain for _, _, chain in _chains(name)} | {_notes_chain(name)}
        for version, program in _PROGRAMS.items():
            for kernel_table in dict.fromkeys(kind for kind, _, _ in _chains(name)):
                if not _present(version, kernel_table, ours):
                    continue
                script = _removal(_saved(program, kernel_table), ours)
                text = "\n".join([f"*{kernel_table}", *script, "COMMIT", ""])
                done = run_filter_tool([f"{program}-restore", *_WAIT, "--noflush"], text)
                if done.returncode != 0:
                    raise tool_refused(f"removing the packet filter with {program}", done)

    def notes(self, name: str) -> tuple[str, ...] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        chain = _notes_chain(name)
        try:
            content = read_table(4, "mangle") if "mangle" in _tables_in_use(_PROGRAMS[4]) else None
            found = find_chains(content, 4, {chain}) if content is not None else ()
        except OSError as error:
            raise refused("reading the packet filter", error) from error
        return comments(found[0], 4) if found else None

    def fingerprint(self, name: str) -> bytes | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        ours = {chain for _, _, chain in _chains(name)} | {_notes_chain(name)}
        try:
            found = [
                (version, kernel_table, chain)
                for version, program in _PROGRAMS.items()
                for kernel_table in sorted(_tables_in_use(program))
                if (content := read_table(version, kernel_table)) is not None
                for chain in find_chains(content, version, ours)
            ]
        except OSError as error:
            raise refused("reading the packet filter", error) from error
        return hashlib.sha256(repr(found).encode()).digest() if found else None

    def counted(self, name: str) -> dict[int, int] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        found: dict[int, int] = {}
        for version, program in _PROGRAMS.items():
            done = run_filter_tool([program, *_WAIT, "-t", "mangle", "-v", "-S"])
            jumps = [f"-A {hook.name} " for hook in _HOOK_SUFFIXES]
            reached = [line for line in done.stdout.splitlines() if f"-j AO-{name}-" in line]
            if not all(any(line.startswith(jump) for line in reached) for jump in jumps):
                return None
            translating = run_filter_tool(
                [program, *_WAIT, "-t", "nat", "-S", "POSTROUTING"]
            ).stdout
            if f"-j {_nat_chain(name, Hook.POSTROUTING)}" not in translating:
                return None
            ours = [line for line in done.stdout.splitlines() if f"-A AO-{name}-" in line]
            counts = [match for line in ours if (match := _COUNT.search(line)) is not None]
            found[version] = sum(int(match[1]) for match in counts)
        return found


def _restore(table: FilterTable, version: int, program: str) -> CompletedProcess[str]:
    jumps = _missing_jumps(version, table)
    script = render_iptables(table, version, jumps, _held_tables(version, table.name))
    return run_filter_tool([f"{program}-restore", *_WAIT, "--noflush"], script)


def render_iptables(
    table: FilterTable,
    version: int,
    jumps: Collection[tuple[str, str, str]] = (),
    held: Collection[str] = (),
) -> str:
    """Return the input of ``iptables-restore --noflush`` that replaces our chains' content.

    The table ``nat`` is left out unless a rule translates addresses, because using it makes the
    kernel track connections.

    Args:
        table: the rules.
        version: IP version, 4 or 6.
        jumps: missing jumps as (kernel table, built-in chain, our chain); they are added.
        held: kernel tables with chains of ours, which may have to be emptied.
    """
    rules = [r for r in table.rules if r.ip_version in (None, version) and _can_say(r)]
    notes = _notes_chain(table.name)
    lines = []
    for kernel_table in dict.fromkeys((*_kernel_tables(table), *held)):
        wanted = [rule for rule in rules if _kernel_table(rule) == kernel_table]
        lines.append(f"*{kernel_table}")
        lines += [
            f":{chain} - [0:0]" for kind, _, chain in _chains(table.name) if kind == kernel_table
        ]
        if kernel_table == "mangle":
            lines.append(f":{notes} - [0:0]")
        lines += [
            f"-I {built_in} 1 -j {chain}" for kind, built_in, chain in jumps if kind == kernel_table
        ]
        lines += [line for rule in wanted for line in _rule_lines(rule, table, version)]
        if kernel_table == "mangle":
            lines += [f'-A {notes} -m comment --comment "{note}" -j RETURN' for note in table.notes]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _can_say(rule: Rule) -> bool:
    places = {*_HOOK_SUFFIXES, Hook.EARLY}
    return rule.hook in places and rule.verdict not in _UNSUPPORTED


def _kernel_table(rule: Rule) -> str:
    if rule.verdict.translates:
        return "nat"
    return "raw" if rule.hook is Hook.EARLY else "mangle"


def _kernel_tables(table: FilterTable) -> list[str]:
    return ["mangle", *sorted({_kernel_table(rule) for rule in table.rules} - {"mangle"})]


def _held_tables(version: int, name: str) -> list[str]:
    """Return the kernel tables in use, beside ``mangle``, that have chains of ours."""
    chains = _chains(name)
    return [
        kernel_table
        for kernel_table in ("raw", "nat")
        if _present(version, kernel_table, {c for kind, _, c in chains if kind == kernel_table})
    ]


def _chains(name: str) -> list[tuple[str, str, str]]:
    """Return (kernel table, built-in chain, our chain) of all chains with a jump to them."""
    hooked = [("mangle", hook.name, f"AO-{name}-{end}") for hook, end in _HOOK_SUFFIXES.items()]
    return [
        *hooked,
        ("raw", Hook.PREROUTING.name, f"AO-{name}-RAW"),
        *(("nat", hook.name, _nat_chain(name, hook)) for hook in (Hook.INPUT, Hook.POSTROUTING)),
    ]


def _nat_chain(name: str, hook: Hook) -> str:
    return f"AO-{name}-NAT{'-IN' if hook is Hook.INPUT else ''}"


def _notes_chain(name: str) -> str:
    return f"AO-{name}-NOTES"


def _present(
    version: int, kernel_table: str, chains: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Return which of these chains exist, each with the hooks that jump to it.

    System calls are used, because starting a program takes about a thousand times as long.

    Raises:
        BackendError: the table could not be read.
    """
    # Reading "nat" would load it, and connection tracking with it.
    if kernel_table != "mangle" and kernel_table not in _tables_in_use(_PROGRAMS[version]):
        return {}
    try:
        content = read_table(version, kernel_table)
    except OSError as error:
        raise refused("reading the packet filter", error) from error
    found = find_chains(content, version, chains) if content is not None else ()
    return {each.name: each.hooks for each in found}


def _saved(program: str, kernel_table: str) -> list[str]:
    """Return the chains and rules of a kernel table that is in use."""
    done = run_filter_tool([program, *_WAIT, "-t", kernel_table, "-S"])
    if done.returncode != 0:
        raise tool_refused(f"reading the packet filter with {program}", done)
    return done.stdout.splitlines()


def _knows_bridges() -> bool:
    """Tell whether the kernel has loaded the match ``physdev``, which some kernels lack."""
    try:
        matches = Path("/proc/thread-self/net/ip_tables_matches").read_text().split()
    except OSError:
        return False
    return "physdev" in matches


def _tables_in_use(program: str) -> list[str]:
    family = "ip6" if program.startswith("ip6") else "ip"
    try:
        return Path(f"/proc/thread-self/net/{family}_tables_names").read_text().split()
    except FileNotFoundError:  # the kernel has no legacy iptables, or has not loaded it
        return []
    except OSError as error:
        raise refused("reading the packet filter", error) from error


def _removal(saved: Sequence[str], ours: Collection[str]) -> list[str]:
    """Return the lines that delete every jump into our chains, then the chains."""
    jumps = [
        f"-D{line[2:]}" for line in saved if line.startswith("-A") and line.split()[-1] in ours
    ]
    chains = [line[3:] for line in saved if line.startswith("-N ") and line[3:] in ours]
    return [*jumps, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)]


def _missing_jumps(version: int, table: FilterTable) -> list[tuple[str, str, str]]:
    """Return the jumps into our chains that do not exist yet."""
    missing = []
    for kernel_table in _kernel_tables(table):
        wanted = [jump for jump in _chains(table.name) if jump[0] == kernel_table]
        present = _present(version, kernel_table, {chain for _, _, chain in wanted})
        missing += [
            jump for jump in wanted if _HOOK_NUMBERS[jump[1]] not in present.get(jump[2], ())
        ]
    return missing


def _rule_lines(rule: Rule, table: FilterTable, version: int) -> list[str]:
    if rule.verdict.translates:
        chain = _nat_chain(table.name, rule.hook)
    elif rule.hook is Hook.EARLY:
        chain = f"AO-{table.name}-RAW"
    else:
        chain = f"AO-{table.name}-{_HOOK_SUFFIXES[rule.hook]}"
    conditions = " ".join((*_conditions(rule, table.mark), *_limit(rule, table)))
    if rule.counted:
        conditions += f" -m comment --comment {_COUNTED}"
    return [
        f"-A {chain} {conditions} {_jump(target)}".replace("  ", " ")
        for target in _targets(rule.verdict, table.mark, version, rule.segment)
    ]


def _jump(target: str) -> str:
    return target if target is _SHOW else f"-j {target}"


def _conditions(rule: Rule, mark: int) -> Iterator[str]:
    return render_conditions(rule, mark, _WORDS)


def _device(name: str) -> str:
    return f"{name[:-1]}+" if name.endswith("*") else name


_WORDS: Final[Words] = {
    Condition.IN_DEVICE: lambda name, _: f"-i {_device(name)}",
    Condition.NOT_IN_DEVICE: lambda name, _: f"! -i {_device(name)}",
    Condition.OUT_DEVICE: lambda name, _: f"-o {_device(name)}",
    Condition.SOURCE: lambda network, _: f"-s {network}",
    Condition.NOT_SOURCE: lambda network, _: f"! -s {network}",
    Condition.DESTINATION: lambda network, _: f"-d {network}",
    Condition.HAS_MARK: lambda mark, _: f"-m mark --mark {mark:#x}",
    Condition.MARK: lambda mark, _: f"-m mark --mark {mark:#x}",
    Condition.REPLY: lambda *_: "-m conntrack --ctdir REPLY --ctstate ESTABLISHED,RELATED",
    Condition.UNKNOWN: lambda *_: "-m conntrack --ctstate INVALID,UNTRACKED",
    Condition.REDIRECTED: lambda *_: "-m conntrack --ctstate DNAT",
    Condition.REPLY_DESTINATION: lambda network, _: f"-m conntrack --ctrepldst {network}",
    Condition.LOCAL: lambda *_: "-m addrtype --dst-type LOCAL",
    Condition.CONNECTION_MARK: lambda mark, _: f"-m connmark --mark {mark:#x}",
    Condition.PROTOCOL: lambda number, _: f"-p {_PROTOCOLS.get(number, number)}",
    Condition.ICMP_TYPE: lambda number, rule: (
        f"{'--icmpv6-type' if rule.ip_version == 6 else '--icmp-type'} {number}"
    ),
    Condition.PORTS: lambda ports, _: f"--dport {ports[0]}:{ports[1]}",
    Condition.LONGER_THAN: lambda size, _: f"-m length --length {size + 1}:65535",
    Condition.AT_MOST: lambda size, _: f"-m length --length 0:{size}",
    Condition.LABELLED: lambda *_: f'-m u32 --u32 "{_FLOW_LABEL}"',
    Condition.IPSEC_IN: lambda exists, _: f"-m policy --dir in --pol {_policy(exists)}",
    Condition.IPSEC_OUT: lambda exists, _: f"-m policy --dir out --pol {_policy(exists)}",
    Condition.BRIDGED: lambda *_: "-m physdev --physdev-is-bridged",
    Condition.TCP_SYN: lambda *_: "-p tcp --tcp-flags SYN,RST SYN",
}
"""Chains are of one IP version, and iptables cannot change DF or the identification."""


def _policy(exists: bool) -> str:
    return "ipsec" if exists else "none"


def _limit(rule: Rule, table: FilterTable) -> Iterator[str]:
    if rule.over is None:
        return
    # A connection becomes confirmed when its first packet has left, so each one is counted once.
    yield "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED"
    length = rule.over.prefix_length
    match rule.over:
        case ConnectionLimit(connections=most):
            yield f"-m connlimit --connlimit-above {most} --connlimit-mask {length}"
            yield "--connlimit-saddr"
        case RateLimit(per_second=rate, burst=burst):
            yield f"-m hashlimit --hashlimit-above {rate}/sec --hashlimit-burst {burst}"
            yield f"--hashlimit-mode srcip --hashlimit-srcmask {length}"
            yield f"--hashlimit-htable-expire 60000 --hashlimit-name AO-{table.name}"


def _targets(
    verdict: Verdict, mark: int, version: int, segment: int | None = None
) -> tuple[str, ...]:
    match verdict:
        case Verdict.REFUSE:
            return (_SHOW, "DROP")
        case Verdict.MARK:
            return (f"MARK --set-mark {mark:#x}", f"CONNMARK --set-mark {mark:#x}")
        case Verdict.RESTORE_MARK:
            return (f"MARK --set-mark {mark:#x}",)
        case Verdict.ANSWER:
            return (f"MARK --set-mark {ANSWER_MARK:#x}",)
        case Verdict.BRIDGED | Verdict.PASS_ON:
            return (f"MARK --set-mark {BRIDGED_MARK:#x}",)
        case Verdict.FOREIGN:
            return (f"MARK --set-mark {FOREIGN_MARK:#x}",)
        case Verdict.UNMARK:
            return ("MARK --set-mark 0x0",)
        case Verdict.STAND_IN:
            return (f"SNAT --to-source {STAND_INS[version]}",)
        case Verdict.LARGE:
            return (f"MARK --set-mark {LARGE_MARK:#x}",)
        case Verdict.CLAMP_MSS:
            size = "--clamp-mss-to-pmtu" if segment is None else f"--set-mss {segment}"
            return (f"TCPMSS {size}",)
        case Verdict.HOP_LIMIT:
            return (f"TTL --ttl-set {HOP_LIMIT}" if version == 4 else f"HL --hl-set {HOP_LIMIT}",)
        case Verdict.TRAFFIC_CLASS:
            return ("TOS --set-tos 0x00/0xff",)
        case Verdict.STRIP_TIMESTAMPS:
            return ("TCPOPTSTRIP --strip-options timestamp",)
        case _:
            return (verdict.name,)
