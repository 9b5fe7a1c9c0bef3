"""Find the name servers of this host, including those behind a local stub resolver.

``/etc/resolv.conf`` often has only 127.0.0.53 or 127.0.0.1, the address of a local program that
asks other servers. These servers are listed in files of systemd-resolved, systemd-networkd,
NetworkManager, resolvconf, dnsmasq and unbound. A wrong extra address does no harm, because only
exits that lend it are rejected. If an address is missing, the host may lose name resolution.

Sources: resolv.conf(5), resolved.conf(5), dnsmasq(8), unbound.conf(5), networkmanager.conf(5).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from overlay.addresses import IpAddress

__all__ = ["RESOLVER_FILES", "name_servers"]

RESOLVER_FILES: Final = (
    "etc/resolv.conf",
    "run/systemd/resolve/resolv.conf",
    "run/systemd/resolve/netif/*",
    "run/systemd/netif/links/*",
    "run/systemd/netif/state",
    "etc/systemd/resolved.conf",
    "etc/systemd/resolved.conf.d/*.conf",
    "run/systemd/resolved.conf.d/*.conf",
    "run/NetworkManager/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/NetworkManager/dnsmasq.conf",
    "etc/NetworkManager/conf.d/*.conf",
    "etc/NetworkManager/dnsmasq.d/*",
    "run/resolvconf/resolv.conf",
    "run/resolvconf/interface/*",
    "run/resolvconf/interfaces/*",
    "run/dnsmasq/resolv.conf",
    "run/dnsmasq.resolv.conf",
    "run/connman/resolv.conf",
    "etc/resolv.dnsmasq",
    "etc/resolv.dnsmasq.conf",
    "etc/resolv.conf.dnsmasq",
    "etc/dnsmasq.conf",
    "etc/dnsmasq.d/*",
    "tmp/resolv.conf.auto",
    "tmp/resolv.conf.d/resolv.conf.auto",
    "etc/unbound/unbound.conf",
    "etc/unbound/unbound.conf.d/*.conf",
    "var/lib/unbound/*.conf",
)
"""Patterns below the root of the file system."""

_KEYS: Final = re.compile(
    r"(nameserver|server|local|rev-server|DNS|FallbackDNS|DNS_SERVERS|SERVERS|servers|"
    r"forward-addr|stub-addr|NETWORK_DNS)\b",
    re.ASCII,
)
_NAMES_FILE: Final = re.compile(r"resolv-file\s*=\s*(/[!-~]+)", re.ASCII)
_BETWEEN: Final = re.compile(r"[\s=,;/@#%\"']+", re.ASCII)

_MOST_BYTES: Final = 65_536
_MOST_FILES: Final = 256
_MOST_SERVERS: Final = 256


def name_servers(root: Path = Path("/")) -> frozenset[IpAddress]:
    """Return the name servers that a resolver of this host may use; this takes about 1 ms.

    Files that cannot be read are skipped. ``root`` is the root of the file system.
    """
    found: set[IpAddress] = set()
    named: list[Path] = []
    for path in _files(root):
        _read(path, found, named)
    for path in named[:_MOST_FILES]:
        _read(root / path.relative_to("/"), found, [])
    return frozenset(found)


def _files(root: Path) -> Iterator[Path]:
    left = _MOST_FILES
    for pattern in RESOLVER_FILES:
        with contextlib.suppress(OSError):
            for path in sorted(root.glob(pattern))[:left]:
                left -= 1
                yield path


def _read(path: Path, found: set[IpAddress], named: list[Path]) -> None:
    with contextlib.suppress(OSError):
        if not path.is_file():
            return  # reading a pipe would block
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        for line in text.splitlines():
            if _KEYS.match(line.strip()):
                found.update(_addresses(line, _MOST_SERVERS - len(found)))
            elif match := _NAMES_FILE.match(line.strip()):
                named.append(Path(match[1]))


def _addresses(line: str, at_most: int) -> Iterable[IpAddress]:
    """Return the addresses of a line, without ports, interfaces and domains."""
    found: list[IpAddress] = []
    for word in _BETWEEN.split(line):
        bracketed, without_port = word.partition("]")[0].strip("["), word.rpartition(":")[0]
        for text in (word, bracketed, without_port if "." in without_port else ""):
            with contextlib.suppress(ValueError):
                found.append(ipaddress.ip_address(text))
                break
    return found[:at_most]
