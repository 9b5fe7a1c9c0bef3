"""The Security Policy Database (RFC 4301, section 4.4.1), compiled when policies are installed.

A lookup does not search a list of all policies. Policies whose selectors have the same *shape*
(destination length, source length, protocol) share a hash table of masked addresses. This is a
"tuple space search". A relay with a thousand circuits has only two or three shapes::

    shapes, most specific first         table of a shape
    /128 <- /128, any protocol    -->   (source, destination) -> chain
    /128 <- /0,   any protocol    -->   (0,      destination) -> chain

Only the most specific selector that matches decides: longest destination prefix, then longest
source prefix, then a named protocol. So the result does not depend on the order of installation,
and a general policy cannot admit packets that a specific one excludes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from overlay.ipsec.esp import TemplateKey, template_key
from overlay.ipsec.interface import MAX_TEMPLATES, PolicyDirection, Prefix, SecurityPolicy, Selector

__all__ = ["Chain", "SecurityPolicyDatabase", "check_policy"]

Chain = tuple[TemplateKey, ...]
"""The tunnels of a policy, or of a packet, innermost first."""

_Part = bytes | int
_Shape = tuple[int, int, int]
"""Destination length, source length, and the protocol (-1 for any)."""

_Entry = tuple[_Part, _Part] | _Part
"""Masked source and destination, or only the destination if a shape matches any source."""

_Compiled = tuple[int, int | None, int | None, dict[_Entry, Chain]]
"""Protocol, source mask, destination mask (None: compare whole addresses), and the table."""

_ANY_PROTOCOL: Final = -1


def check_policy(policy: SecurityPolicy) -> None:
    """Check the fields of a policy.

    Raises:
        ValueError: a field is invalid. The message names the field but not its value.
    """
    selector = policy.selector
    if len(selector.source.network) != len(selector.destination.network):
        raise ValueError("Both prefixes of a selector must be of one family.")
    for prefix in (selector.source, selector.destination):
        bits = len(prefix.network) * 8
        if bits not in (32, 128) or not 0 <= prefix.length <= bits:
            raise ValueError("A prefix must be a packed address and a length that fits it.")
    if selector.protocol is not None and not 0 <= selector.protocol <= 255:
        raise ValueError("A selector's protocol must lie between 0 and 255.")
    if not 1 <= len(policy.templates) <= MAX_TEMPLATES:
        raise ValueError(f"A policy must have 1 to {MAX_TEMPLATES} templates.")


def _mask(prefix: Prefix) -> int | None:
    bits = len(prefix.network) * 8
    return None if prefix.length == bits else (1 << bits) - (1 << (bits - prefix.length))


def _part(address: bytes, mask: int | None) -> _Part:
    return address if mask is None else int.from_bytes(address, "big") & mask


def _shape(selector: Selector) -> _Shape:
    protocol = _ANY_PROTOCOL if selector.protocol is None else selector.protocol
    return (selector.destination.length, selector.source.length, protocol)


def _masked(
    source: bytes, source_mask: int | None, destination: bytes, destination_mask: int | None
) -> _Entry:
    wanted = destination if destination_mask is None else _part(destination, destination_mask)
    if source_mask == 0:
        return wanted
    return (source if source_mask is None else _part(source, source_mask), wanted)


def _entry(selector: Selector) -> _Entry:
    source, destination = selector.source, selector.destination
    return _masked(source.network, _mask(source), destination.network, _mask(destination))


class _PolicyTable:
    """The policies of one direction and one IP version."""

    __slots__ = ("_compiled", "_shapes")

    def __init__(self) -> None:
        self._shapes: dict[_Shape, _Compiled] = {}
        self._compiled: tuple[_Compiled, ...] = ()

    def find(self, source: bytes, destination: bytes, protocol: int) -> Chain | None:
        for wanted, source_mask, destination_mask, table in self._compiled:
            if wanted >= 0 and wanted != protocol:
                continue
            chain = table.get(_masked(source, source_mask, destination, destination_mask))
            if chain is not None:
                return chain
        return None

    def chain_of(self, selector: Selector) -> Chain | None:
        compiled = self._shapes.get(_shape(selector))
        return None if compiled is None else compiled[3].get(_entry(selector))

    def add(self, selector: Selector, chain: Chain) -> None:
        shape = _shape(selector)
        if shape not in self._shapes:
            masks = (_mask(selector.source), _mask(selector.destination))
            self._shapes[shape] = (shape[2], *masks, {})
            self._compile()
        self._shapes[shape][3][_entry(selector)] = chain

    def remove(self, selector: Selector) -> None:
        shape = _shape(selector)
        table = self._shapes[shape][3]
        del table[_entry(selector)]
        if not table:
            del self._shapes[shape]
            self._compile()

    def _compile(self) -> None:
        self._compiled = tuple(self._shapes[shape] for shape in sorted(self._shapes, reverse=True))


class _LinkChains:
    """Keep one object per link, which the chains of all policies over that link share.

    This saves memory, because the chains of hundreds of circuits end with the same link. Uses are
    counted, so that a link is removed with its last policy.
    """

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: dict[Chain, tuple[Chain, int]] = {}

    def __len__(self) -> int:
        return len(self._used)

    def uses(self) -> int:
        """Return the number of policies that share the objects."""
        return sum(uses for _, uses in self._used.values())

    def share(self, chain: Chain) -> Chain:
        """Count a policy; return an equal chain that ends with the shared object of the link."""
        link, uses = self._used.get(chain[-1:], (chain[-1:], 0))
        self._used[link] = (link, uses + 1)
        return (*chain[:-1], *link) if len(chain) > 1 else link

    def release(self, chain: Chain) -> None:
        """Undo the count of one policy for which :meth:`share` was called."""
        link, uses = self._used[chain[-1:]]
        if uses > 1:
            self._used[link] = (link, uses - 1)
        else:
            del self._used[link]


class SecurityPolicyDatabase:
    """All policies of this host; the engine owns it, and its caller limits their number."""

    def __init__(self) -> None:
        self._tables = self._empty_tables()
        self._links = _LinkChains()

    def __len__(self) -> int:
        """Return the number of policies."""
        return self._links.uses()

    def links(self) -> int:
        """Return the number of links that policies name; the policies of a link share one object.

        A link whose last policy was removed does not count.
        """
        return len(self._links)

    @staticmethod
    def _empty_tables() -> dict[PolicyDirection, dict[int, _PolicyTable]]:
        return {direction: {4: _PolicyTable(), 16: _PolicyTable()} for direction in PolicyDirection}

    def find(
        self, direction: PolicyDirection, source: bytes, destination: bytes, protocol: int
    ) -> Chain | None:
        """Return the chain of the most specific policy that matches; None if none matches.

        ``source`` and ``destination`` are packed addresses of the same IP version.
        """
        return self._tables[direction][len(destination)].find(source, destination, protocol)

    def check_new(self, policies: Iterable[SecurityPolicy]) -> None:
        """Raise ValueError if a policy is installed already, or is twice in one configuration."""
        seen: set[tuple[PolicyDirection, int, _Shape, _Entry]] = set()
        for policy in policies:
            selector = policy.selector
            family = len(selector.source.network)
            identity = (policy.direction, family, _shape(selector), _entry(selector))
            if identity in seen or self._table(policy).chain_of(selector) is not None:
                raise ValueError("A policy with the same direction and selector is installed.")
            seen.add(identity)

    def add(self, policies: Iterable[SecurityPolicy]) -> None:
        """Install policies that :meth:`check_new` has accepted; equal chains become one object."""
        known: dict[Chain, Chain] = {}
        for policy in policies:
            chain = self._links.share(_chain(policy))
            self._table(policy).add(policy.selector, known.setdefault(chain, chain))

    def discard(self, policy: SecurityPolicy) -> bool:
        """Remove an equal policy; return whether there was one."""
        table = self._tables[policy.direction].get(len(policy.selector.source.network))
        if table is None or table.chain_of(policy.selector) != _chain(policy):
            return False
        table.remove(policy.selector)
        self._links.release(_chain(policy))
        return True

    def clear(self) -> None:
        """Remove every policy."""
        self._tables = self._empty_tables()
        self._links = _LinkChains()

    def _table(self, policy: SecurityPolicy) -> _PolicyTable:
        return self._tables[policy.direction][len(policy.selector.source.network)]


def _chain(policy: SecurityPolicy) -> Chain:
    return tuple(template_key(template) for template in policy.templates)
