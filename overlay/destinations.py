"""Parse destinations as users write them: an IP address, or a prefix without host bits.

Common mistakes (a URL, a port, a host name, a range) are recognised, so that the message says what
to write instead. Names are never resolved.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from overlay.addresses import NODE_ID_BYTES, IpNetwork, is_overlay_address
from overlay.errors import Malformed

__all__ = ["parse_destination", "shown_destination"]

_MOST_SHOWN: Final = 80
_NODE_ID: Final = re.compile(rf"[0-9a-fA-F]{{{2 * NODE_ID_BYTES}}}")
_HOST_NAME: Final = re.compile(r"(?:[\w-]+@)?[\w-]+(\.[\w-]+)*\.?(:[0-9]+)?")
_LEADING_ZERO: Final = re.compile(r"(^|\.)0[0-9]")
_EXAMPLES: Final = "203.0.113.10 or 203.0.113.0/24"


def parse_destination(text: str) -> IpNetwork:
    """Return the destination that a user wrote.

    Raises:
        Malformed: it is no destination; the message begins with the text.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise Malformed(f"{shown_destination(text)} {_why_none(text)}.") from None
    problem = _why_not(network)
    if problem is not None:
        raise Malformed(f"{shown_destination(text)} {problem}.")
    return network


def shown_destination(text: str) -> str:
    """Return a user's text in quotes, shortened."""
    return repr(text[:_MOST_SHOWN])


def _why_not(network: IpNetwork) -> str | None:
    """Return why an address or prefix is no destination, as a predicate; None if it is one."""
    address = network.network_address
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.scope_id is not None:
        return "has a zone; write the address without it"
    if network.prefixlen != address.max_prefixlen:
        return None
    if address.ipv4_mapped is not None:
        return f"is an IPv4 address in IPv6 notation; write {address.ipv4_mapped}"
    if is_overlay_address(address.packed):
        return "is a node of the overlay and no destination; name nodes of the path with via"
    return None


def _why_none(text: str) -> str:
    """Return why a text is no destination, as a predicate."""
    bare = text.strip()
    if not bare:
        return f"is empty; write an address or a prefix, such as {_EXAMPLES}"
    if bare != text:
        return "begins or ends with spaces; write it without them"
    if "://" in text:
        return f"is a URL; write only the server's address, such as {_EXAMPLES}"
    if _NODE_ID.fullmatch(text):
        return "is a node id and no destination; name nodes of the path with via"
    if "," in text or " " in text:
        return "names several destinations; write them as separate words"
    return _why_no_address(text)


def _why_no_address(text: str) -> str:
    host, slash, length = text.partition("/")
    address = _address(host.removeprefix("[").removesuffix("]"))
    if address is not None and not slash and host != str(address) and host.startswith("["):
        return f"is in brackets; write {address}"
    if address is not None and slash:
        return _why_no_prefix(address, length)
    before, _colon, port = host.rpartition(":")
    bracketed = before.startswith("[") and before.endswith("]")
    inside = _address(before[1:-1] if bracketed else before)
    # Without brackets the last part of an IPv6 address is no port.
    if inside is not None and port.isdecimal() and (bracketed or inside.version == 4):
        return f"names a port, and a path carries all ports; write {inside}"
    if "*" in text or re.fullmatch(r"[0-9.]+-[0-9.]+", text):
        return "is a range; write it as prefixes, such as 203.0.113.0/24"
    if re.fullmatch(r"[0-9.]+", host):
        if _LEADING_ZERO.search(host):
            return "has a number that begins with 0, which some read as octal; leave the 0 out"
        return "is not a whole IPv4 address; write four numbers from 0 to 255, with dots between"
    if ":" not in before and _HOST_NAME.fullmatch(text):
        return (
            "is a host name, which is refused because resolving it would reveal your destination "
            "to a name server; write its address"
        )
    return f"is not an IP address or prefix; write one such as {_EXAMPLES}"


def _why_no_prefix(address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: str) -> str:
    most = address.max_prefixlen
    if not length:
        return f"has no length after the slash; write {address}/{most}, or only the address"
    try:
        inside = ipaddress.ip_interface(f"{address}/{length}").network
    except ValueError:
        return (
            f"has no valid length after the slash; IPv{address.version} prefixes have 0 to {most} "
            "bits"
        )
    return f"has bits beyond its prefix; write {inside}, or only the address"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
