"""Find packet filters of other programs that may drop forwarded packets, and commands to fix it.

The result is for a message to the user. Whether packets are forwarded is tested with a probe
(``overlay.system.exit_probe``), because rules cannot be fully evaluated here. A chain is named if
its policy is drop, or if one of its rules drops, rejects or jumps to another chain.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.system.packet_filter import run_filter_tool

__all__ = ["ForeignChain", "foreign_chains", "legacy_chains", "nft_chains"]

Run = Callable[[Sequence[str]], str]

_OWN_TABLES: Final = "anonymous_overlay"
_LEGACY: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
_FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_HOOKS: Final = ("forward", "prerouting", "postrouting")
_LEGACY_TABLES: Final = {
    "filter": ("FORWARD",),
    "mangle": ("PREROUTING", "FORWARD", "POSTROUTING"),
    "raw": ("PREROUTING",),
}
"""Tables of iptables, and the chains in them that forwarded packets pass."""

_OWN_CHAINS: Final = "AO-"
"""Prefix of the names of this program's chains."""

_MOST_NAMED: Final = 4
"""Limit of chains in one message, so that it stays readable."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A chain of another program that packets pass when they are forwarded.

    ``family`` is a family of nftables, or the name of an iptables program. ``by`` is the program
    that manages the chain: "firewalld", "ufw", or empty if unknown. ``certain`` is set if the chain
    itself drops packets, and not a chain that it jumps to.
    """

    family: str
    table: str
    chain: str
    by: str = ""
    certain: bool = True

    @property
    def name(self) -> str:
        """The name of the chain in a message."""
        if self.by:
            return self.by
        if "tables" in self.family:
            table = "" if self.table == "filter" else f"table {self.table}, "
            return f"{self.family}, {table}chain {self.chain}"
        return f"nft, chain {self.family} {self.table} {self.chain}"

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


def foreign_chains(version: int) -> list[ForeignChain]:
    """Return at most 4 chains that may drop forwarded packets; none if unknown.

    If some chains drop packets themselves, chains that only jump to others are left out.
    """
    found = [*nft_chains(version, _output), *legacy_chains(version, _output)]
    certain = [each for each in found if each.certain]
    return list(dict.fromkeys(certain or found))[:_MOST_NAMED]


def nft_chains(version: int, run: Run) -> list[ForeignChain]:
    """Return the chains of nftables, including those of iptables on top of nftables."""
    found = []
    for entry in _json(run(["nft", "--json", "list", "chains"])):
        chain = entry.get("chain", {})
        table, family = str(chain.get("table")), str(chain.get("family"))
        if chain.get("hook") not in _HOOKS or family not in _FAMILIES[version]:
            continue
        if table.startswith(_OWN_TABLES) or chain.get("type") == "nat":
            continue
        name = str(chain.get("name"))
        rules = json.dumps(_json(run(["nft", "--json", "list", "chain", family, table, name])))
        drops = chain.get("policy") == "drop" or '"drop"' in rules or '"reject"' in rules
        if not drops and '"jump"' not in rules and '"goto"' not in rules:
            continue
        if name.isupper() and table in _LEGACY_TABLES and family != "inet":
            by = "ufw" if "ufw" in rules else ""
            found.append(ForeignChain(_PROGRAMS[version], table, name, by, drops))
        else:
            by = "firewalld" if table == "firewalld" else ""
            found.append(ForeignChain(family, table, name, by, drops))
    return found


def legacy_chains(version: int, run: Run) -> list[ForeignChain]:
    """Return the chains of legacy iptables, which nftables does not list."""
    program, found = _LEGACY[version], []
    for table, chains in _LEGACY_TABLES.items():
        lines = run([program, "-w", "-t", table, "-S"]).splitlines()
        for chain in chains:
            own = [line for line in lines if f" {chain} " in line and _OWN_CHAINS not in line]
            drops = f"-P {chain} DROP" in own or any(_refuses(line) for line in own)
            by = "ufw" if any("ufw" in line for line in own) else ""
            if drops or any(" -j " in line and " -j ACCEPT" not in line for line in own):
                found.append(ForeignChain(program, table, chain, by, drops))
    return found


def _refuses(line: str) -> bool:
    return " -j DROP" in line or " -j REJECT" in line


def _output(argv: Sequence[str]) -> str:
    if shutil.which(argv[0]) is None:
        return ""
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
