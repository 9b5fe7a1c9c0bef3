"""Find packet filters of other programs that may drop packets, and commands to fix it.

The packets are those that an exit forwards, or the datagrams of the node itself. The result is for
a message to the user. Whether packets are forwarded is tested with a probe
(``overlay.system.exit_probe``), because rules cannot be fully evaluated here. A chain is named if
its policy is drop, or if one of its rules drops, rejects, stops connection tracking or jumps to
another chain.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.system.packet_filter import run_filter_tool

__all__ = ["Direction", "ForeignChain", "foreign_chains", "legacy_chains", "nft_chains"]

Run = Callable[[Sequence[str]], str]

_OWN_TABLES: Final = "anonymous_overlay"
_LEGACY: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
_FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}


class Direction(enum.Enum):
    """Where packets go. The value lists the hooks that they pass, as nftables names them."""

    FORWARD = ("forward", "prerouting", "postrouting")
    INPUT = ("input", "prerouting")
    OUTPUT = ("output", "postrouting")


_LEGACY_TABLES: Final = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
}
"""Tables of iptables, and the chains in them; a chain has the name of its hook."""

_UNTRACKED: Final = ('"notrack"', " -j NOTRACK", " -j CT --notrack")
"""Parts of rules that stop connection tracking. An exit drops packets whose connection is not
tracked, because they would not be translated."""

_OWN_CHAINS: Final = "AO-"
"""Prefix of the names of this program's chains."""

_NUMBER: Final = re.compile(r"(?<![\w.:/])\d{1,5}(?![\w.:/])")

_MOST_NAMED: Final = 4
"""Limit of chains in one message, so that it stays readable."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A chain of another program that packets pass.

    ``family`` is a family of nftables, or the name of an iptables program. ``by`` is the program
    that manages the chain: "firewalld", "ufw", or empty if unknown. ``certain`` is set if the chain
    itself drops packets, and not a chain that it jumps to. ``accepted`` are numbers in rules of the
    chain that accept packets; a port is among them if a rule accepts it.
    """

    family: str
    table: str
    chain: str
    by: str = ""
    certain: bool = True
    accepted: frozenset[int] = frozenset()

    def accepts(self, port: int) -> bool:
        """Tell whether a rule of the chain seems to accept datagrams of this port."""
        return port in self.accepted

    @property
    def name(self) -> str:
        """The name of the chain in a message."""
        if self.by:
            return self.by
        if "tables" in self.family:
            table = "" if self.table == "filter" else f"table {self.table}, "
            return f"{self.family}, {table}chain {self.chain}"
        return f"nft, chain {self.family} {self.table} {self.chain}"

    def port_commands(self, port: int, direction: Direction) -> list[str]:
        """Return commands that accept datagrams to this UDP port of this host, or from it."""
        outgoing = direction is Direction.OUTPUT
        side = "sport" if outgoing else "dport"
        if self.by == "firewalld":
            return [f"firewall-cmd --permanent --add-port={port}/udp", "firewall-cmd --reload"]
        if self.by == "ufw":
            out = f"ufw allow out proto udp from any port {port}"
            return [out if outgoing else f"ufw allow {port}/udp"]
        if "tables" in self.family:
            table = "" if self.table == "filter" else f"-t {self.table} "
            return [f"{self.family} {table}-I {self.chain} -p udp --{side} {port} -j ACCEPT"]
        where = f"{self.family} {self.table} {self.chain}"
        return [f"nft insert rule {where} udp {side} {port} accept"]

    def commands(self, pool: IpNetwork, device: str) -> list[str]:
        """Return commands that accept packets of a pool in both directions."""
        if self.by == "firewalld":
            return [
                f"firewall-cmd --permanent --zone=trusted --add-source={pool}",
                "firewall-cmd --reload",
            ]
        if self.by == "ufw":
            return [f"ufw route allow in on {device}", f"ufw route allow out on {device}"]
        if "tables" in self.family:
            table = "" if self.table == "filter" else f"-t {self.table} "
            return [f"{self.family} {table}-I {self.chain} -{way} {pool} -j ACCEPT" for way in "sd"]
        version = "ip" if pool.version == 4 else "ip6"
        return [
            f"nft insert rule {self.family} {self.table} {self.chain} {version} {way} {pool} accept"
            for way in ("saddr", "daddr")
        ]


def foreign_chains(version: int, direction: Direction = Direction.FORWARD) -> list[ForeignChain]:
    """Return at most 4 chains that may drop packets of a direction; none if unknown.

    If some chains drop packets themselves, chains that only jump to others are left out.
    """
    found = [
        *nft_chains(version, _output, direction),
        *legacy_chains(version, _output, direction),
    ]
    certain = [each for each in found if each.certain]
    return list(dict.fromkeys(certain or found))[:_MOST_NAMED]


def nft_chains(
    version: int, run: Run, direction: Direction = Direction.FORWARD
) -> list[ForeignChain]:
    """Return the chains of nftables, including those of iptables on top of nftables."""
    found = []
    for entry in _json(run(["nft", "--json", "list", "chains"])):
        chain = entry.get("chain", {})
        table, family = str(chain.get("table")), str(chain.get("family"))
        if chain.get("hook") not in direction.value or family not in _FAMILIES[version]:
            continue
        if table.startswith(_OWN_TABLES) or chain.get("type") == "nat":
            continue
        name = str(chain.get("name"))
        listed = _json(run(["nft", "--json", "list", "chain", family, table, name]))
        rules, accepted = json.dumps(listed), _accepted(map(json.dumps, listed), '"accept"')
        drops = chain.get("policy") == "drop" or '"drop"' in rules or '"reject"' in rules
        drops = drops or _untracks(rules, direction)
        if not drops and '"jump"' not in rules and '"goto"' not in rules:
            continue
        if name.isupper() and table in _LEGACY_TABLES and family != "inet":
            by = "ufw" if "ufw" in rules else ""
            found.append(ForeignChain(_PROGRAMS[version], table, name, by, drops, accepted))
        else:
            by = "firewalld" if table == "firewalld" else ""
            found.append(ForeignChain(family, table, name, by, drops, accepted))
    return found


def legacy_chains(
    version: int, run: Run, direction: Direction = Direction.FORWARD
) -> list[ForeignChain]:
    """Return the chains of legacy iptables, which nftables does not list."""
    program, found = _LEGACY[version], []
    for table, chains in _LEGACY_TABLES.items():
        lines = run([program, "-w", "-t", table, "-S"]).splitlines()
        for chain in (each for each in chains if each.lower() in direction.value):
            own = [line for line in lines if f" {chain} " in line and _OWN_CHAINS not in line]
            drops = f"-P {chain} DROP" in own or any(_refuses(line) for line in own)
            drops = drops or any(_untracks(line, direction) for line in own)
            by = "ufw" if any("ufw" in line for line in own) else ""
            if drops or any(" -j " in line and " -j ACCEPT" not in line for line in own):
                accepted = _accepted(own, " -j ACCEPT")
                found.append(ForeignChain(program, table, chain, by, drops, accepted))
    return found


def _accepted(rules: Iterable[str], verdict: str) -> frozenset[int]:
    """Return the numbers, such as ports, in rules with this verdict."""
    return frozenset(
        int(number) for rule in rules if verdict in rule for number in _NUMBER.findall(rule)
    )


def _untracks(rules: str, direction: Direction) -> bool:
    return direction is Direction.FORWARD and any(each in rules for each in _UNTRACKED)


def _refuses(line: str) -> bool:
    return " -j DROP" in line or " -j REJECT" in line


def _output(argv: Sequence[str]) -> str:
    try:
        return run_filter_tool(argv).stdout
    except BackendError:
        return ""


def _json(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError):
        return []
    return [each for each in found if isinstance(each, dict)]
