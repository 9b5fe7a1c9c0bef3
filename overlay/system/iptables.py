"""Packet filter tables for kernels whose nftables lacks families: legacy iptables, v4 and v6.

One chain for each hook, in the kernel's ``mangle`` table (``nat`` for masquerading), reached
by one jump from the built-in chain. ``iptables-restore --noflush`` replaces the content of
all chains of one kernel table at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from overlay.errors import BackendError
from overlay.system.packet_filter import (
    FilterTable,
    Hook,
    Rule,
    Verdict,
    run_filter_tool,
    tool_refused,
)

__all__ = ["Iptables", "render_iptables"]

_PROGRAMS: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_HOOK_SUFFIXES: Final = {
    Hook.PREROUTING: "PRE",
    Hook.INPUT: "IN",
    Hook.FORWARD: "FWD",
    Hook.POSTROUTING: "POST",
}
_NOTE: Final = re.compile(r'--comment "?([^"\s]+)"?')


class Iptables:
    """The ``iptables-legacy`` and ``ip6tables-legacy`` programs."""

    def usable(self) -> bool:
        """Tell whether both programs are installed and reach their tables."""
        try:
            return all(
                run_filter_tool([program, "-w", "-t", "mangle", "-S"]).returncode == 0
                for program in _PROGRAMS.values()
            )
        except BackendError:
            return False

    def replace(self, table: FilterTable) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        for version, program in _PROGRAMS.items():
            script = render_iptables(table, version)
            done = run_filter_tool([f"{program}-restore", "-w", "--noflush"], script)
            if done.returncode != 0:
                raise tool_refused(f"setting the packet filter with {program}", done)
            for kernel_table, built_in, chain in _chains(table.name):
                _ensure_jump(program, kernel_table, built_in, chain)

    def remove(self, name: str) -> None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        for program in _PROGRAMS.values():
            for kernel_table, built_in, chain in _chains(name):
                base = [program, "-w", "-t", kernel_table]
                while run_filter_tool([*base, "-D", built_in, "-j", chain]).returncode == 0:
                    pass
                run_filter_tool([*base, "-F", chain])
                run_filter_tool([*base, "-X", chain])
            for action in ("-F", "-X"):
                run_filter_tool([program, "-w", "-t", "mangle", action, _notes_chain(name)])

    def notes(self, name: str) -> tuple[str, ...] | None:
        """See :class:`~overlay.system.packet_filter.PacketFilter`."""
        done = run_filter_tool([_PROGRAMS[4], "-w", "-t", "mangle", "-S", _notes_chain(name)])
        return None if done.returncode != 0 else tuple(_NOTE.findall(done.stdout))


def render_iptables(table: FilterTable, version: int) -> str:
    """Return what ``iptables-restore --noflush`` needs to replace our chains' content."""
    rules = [rule for rule in table.rules if rule.ip_version in (None, version)]
    mangle = [rule for rule in rules if rule.verdict is not Verdict.MASQUERADE]
    nat = [rule for rule in rules if rule.verdict is Verdict.MASQUERADE]
    notes = _notes_chain(table.name)
    lines = ["*mangle"]
    lines += [f":{chain} - [0:0]" for kind, _, chain in _chains(table.name) if kind == "mangle"]
    lines += [f":{notes} - [0:0]"]
    lines += [line for rule in mangle for line in _rule_lines(rule, table)]
    lines += [f'-A {notes} -m comment --comment "{note}" -j RETURN' for note in table.notes]
    lines += ["COMMIT", "*nat", f":{_nat_chain(table.name)} - [0:0]"]
    lines += [line for rule in nat for line in _rule_lines(rule, table)]
    return "\n".join([*lines, "COMMIT", ""])


def _chains(name: str) -> list[tuple[str, str, str]]:
    """Return (kernel table, built-in chain, our chain) for all that are hooked in."""
    hooked = [("mangle", hook.name, f"AO-{name}-{_HOOK_SUFFIXES[hook]}") for hook in Hook]
    return [*hooked, ("nat", Hook.POSTROUTING.name, _nat_chain(name))]


def _nat_chain(name: str) -> str:
    return f"AO-{name}-NAT"


def _notes_chain(name: str) -> str:
    return f"AO-{name}-NOTES"


def _ensure_jump(program: str, kernel_table: str, built_in: str, chain: str) -> None:
    base = [program, "-w", "-t", kernel_table]
    if run_filter_tool([*base, "-C", built_in, "-j", chain]).returncode == 0:
        return
    done = run_filter_tool([*base, "-I", built_in, "1", "-j", chain])
    if done.returncode != 0:
        raise tool_refused(f"setting the packet filter with {program}", done)


def _rule_lines(rule: Rule, table: FilterTable) -> list[str]:
    if rule.verdict is Verdict.MASQUERADE:
        chain = _nat_chain(table.name)
    else:
        chain = f"AO-{table.name}-{_HOOK_SUFFIXES[rule.hook]}"
    conditions = " ".join(_conditions(rule, table.mark))
    return [
        f"-A {chain} {conditions} -j {target}".replace("  ", " ")
        for target in _targets(rule.verdict, table.mark)
    ]


def _conditions(rule: Rule, mark: int) -> Iterator[str]:
    if rule.in_device is not None:
        yield f"-i {rule.in_device}"
    if rule.not_in_device is not None:
        yield f"! -i {rule.not_in_device}"
    if rule.out_device is not None:
        yield f"-o {rule.out_device}"
    if rule.source is not None:
        yield f"-s {rule.source}"
    if rule.not_source is not None:
        yield f"! -s {rule.not_source}"
    if rule.destination is not None:
        yield f"-d {rule.destination}"
    if rule.has_mark:
        yield f"-m mark --mark {mark:#x}"
    if rule.reply:
        yield "-m conntrack --ctstate ESTABLISHED,RELATED"
    if rule.verdict is Verdict.RESTORE_MARK:
        yield f"-m connmark --mark {mark:#x}"
    if rule.verdict is Verdict.CLAMP_MSS:
        yield "-p tcp --tcp-flags SYN,RST SYN"


def _targets(verdict: Verdict, mark: int) -> tuple[str, ...]:
    match verdict:
        case Verdict.MARK:
            return (f"MARK --set-mark {mark:#x}", f"CONNMARK --set-mark {mark:#x}")
        case Verdict.RESTORE_MARK:
            return (f"MARK --set-mark {mark:#x}",)
        case Verdict.CLAMP_MSS:
            return ("TCPMSS --clamp-mss-to-pmtu",)
        case _:
            return (verdict.name,)
