"""Routing rules that hide addresses of this host from packets with a mark.

Linux looks up every packet in the table ``local`` first, which has all addresses of the host. For
packets with the mark, a rule before that one skips the table::

    0:   to VC fwmark MARK goto 109          one for each hidden address VC
    0:   lookup local
    109: not fwmark MARK lookup KILL_SWITCH  the kill switch's rule does not match the mark
    ...: lookup main

So a host that forwards treats VC as an address that it does not have. This includes "time
exceeded", proxy ARP and reverse-path checks. Nothing changes for sockets and own packets.

The rule of ``local`` keeps its preference 0, because ``ip rule flush`` and other programs do not
touch rules with that preference. The kernel evaluates rules of one preference in the order in
which they were added. So the rule of ``local`` is added again, and then its first copy is deleted.

Format: Linux uapi ``fib_rules.h``.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final

from overlay.addresses import IpAddress
from overlay.system.failures import refused
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    attribute,
    attributes,
    message,
)
from overlay.system.rtnetlink import ROUTE_PROTOCOL

__all__ = ["HiddenAddresses"]

_NEW_RULE, _DELETE_RULE, _GET_RULE = 32, 33, 34
_CREATE: Final = 0x400
_HEADER: Final = struct.Struct("=BBBBBxxBI")  # family, lengths, tos, table, action, flags
_WORD: Final = struct.Struct("=I")
_DST, _GOTO, _PRIORITY, _MARK, _TABLE, _MASK, _PROTOCOL = 1, 4, 6, 10, 15, 16, 21
_TO_TABLE, _GOTO_ACTION = 1, 2
_LOCAL: Final = 255
_BY_KERNEL: Final = 2
"""RTPROT_KERNEL: network managers do not remove such a rule as a foreign one."""
_GONE: Final = frozenset((errno.ENOENT, errno.ESRCH))

_CONDITIONS: Final = frozenset((_DST, 2, 3, _MARK, 11, 12, _MASK, 17, 19, 20, 22, 23, 24))
"""Attributes of a rule for some packets only (by source, device, user, protocol or port)."""

_Found = IpAddress | int
"""An address that a rule hides, or the protocol of a rule that sends all packets to ``local``.

Other programs add the rule of ``local`` with protocols of their own (``ip rule add`` writes
``boot``), and the kernel deletes a rule only if its protocol is named or left out.
"""


class HiddenAddresses:
    """The rules of one kill switch; every call reads the kernel's rules."""

    def __init__(self, mark: int, mask: int, target: int) -> None:
        """Prepare; nothing is changed.

        Args:
            mark: firewall mark of the packets for which the addresses are hidden.
            mask: the bits of the mark that are compared; each owner must have a different mask,
                because it identifies the owner's rules.
            target: preference of the next rule for these packets, above 0.
        """
        self._mark = mark
        self._mask = mask
        self._target = target

    def hide(self, addresses: Collection[IpAddress]) -> bool:
        """Hide exactly these addresses; return whether a rule was missing or superfluous.

        Raises:
            BackendError: the kernel refused.
        """
        changed = False
        try:
            with _route_socket() as netlink:
                for version in (4, 6):
                    wanted = {each for each in addresses if each.version == version}
                    changed |= self._hide(netlink, version, wanted)
        except OSError as error:
            raise refused("setting routing rules for inner addresses", error) from error
        return changed

    def hides(self, addresses: Collection[IpAddress]) -> bool:
        """Tell whether the rules are in place; nothing is changed.

        Raises:
            BackendError: the rules could not be read.
        """
        try:
            with _route_socket() as netlink:
                return all(
                    _in_order(self._rules(netlink, version))
                    and {each for each in self._rules(netlink, version) if not _is_local(each)}
                    == {each for each in addresses if each.version == version}
                    for version in (4, 6)
                )
        except OSError as error:
            raise refused("reading routing rules", error) from error

    def _hide(self, netlink: socket.socket, version: int, wanted: set[IpAddress]) -> bool:
        found = self._rules(netlink, version)
        hidden = {each for each in found if not isinstance(each, int)}
        for address in wanted - hidden:
            _change(netlink, _NEW_RULE, self._detour(address))
        for address in hidden - wanted:
            _change(netlink, _DELETE_RULE, self._detour(address))
        found = self._rules(netlink, version)
        if wanted and not _in_order(found):
            if not _is_local(found[-1]):
                _change(netlink, _NEW_RULE, _lookup_local(version, _BY_KERNEL))
                found.append(_BY_KERNEL)
            # A process that was killed between these steps may have left further copies.
            for protocol in [each for each in found if isinstance(each, int)][:-1]:
                _change(netlink, _DELETE_RULE, _lookup_local(version, protocol))
        return hidden != wanted

    def _rules(self, netlink: socket.socket, version: int) -> list[_Found]:
        """Return the rules with preference 0, in the order in which the kernel evaluates them."""
        found: list[_Found] = []
        netlink.send(message(_GET_RULE, DUMP, _HEADER.pack(_family(version), 0, 0, 0, 0, 0, 0)))
        for body in answers(netlink):
            _, length, source_length, _, table, action, _ = _HEADER.unpack_from(body)
            given = attributes(body[_HEADER.size :])
            if any(given.get(_PRIORITY, b"")):
                continue
            if action == _TO_TABLE and table == _LOCAL and not length and not source_length:
                if not given.keys() & _CONDITIONS:
                    found.append(given.get(_PROTOCOL, b"\0")[0])
            elif action == _GOTO_ACTION and given.get(_PROTOCOL) == bytes((ROUTE_PROTOCOL,)):
                ours = tuple(given.get(each) for each in (_GOTO, _MARK, _MASK)) == self._words()
                if ours and length:
                    found.append(ipaddress.ip_address(given[_DST]))
        return found

    def _words(self) -> tuple[bytes, ...]:
        return tuple(map(_WORD.pack, (self._target, self._mark, self._mask)))

    def _detour(self, address: IpAddress) -> bytes:
        target, mark, mask = self._words()
        header = (_family(address.version), address.max_prefixlen, 0, 0, 0, _GOTO_ACTION, 0)
        return (
            _HEADER.pack(*header)
            + attribute(_PRIORITY, _WORD.pack(0))
            + attribute(_DST, address.packed)
            + attribute(_MARK, mark)
            + attribute(_MASK, mask)
            + attribute(_GOTO, target)
            + attribute(_PROTOCOL, bytes((ROUTE_PROTOCOL,)))
        )


def _in_order(found: list[_Found]) -> bool:
    """Tell whether ``local`` has one rule, behind all others, or none with preference 0."""
    of_local = [_is_local(each) for each in found]
    return not any(of_local) or (sum(of_local) == 1 and of_local[-1])


def _is_local(found: _Found) -> bool:
    return isinstance(found, int)


def _lookup_local(version: int, protocol: int) -> bytes:
    return (
        _HEADER.pack(_family(version), 0, 0, 0, _LOCAL, _TO_TABLE, 0)
        + attribute(_PRIORITY, _WORD.pack(0))
        + attribute(_TABLE, _WORD.pack(_LOCAL))
        + attribute(_PROTOCOL, bytes((protocol,)))
    )


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _change(netlink: socket.socket, kind: int, body: bytes) -> None:
    # Without NLM_F_EXCL, so that the kernel accepts a second copy of a rule.
    flags = _CREATE if kind == _NEW_RULE else 0
    netlink.send(message(kind, flags | ACKNOWLEDGE, body))
    number = acknowledged_error(netlink)
    if number and not (kind == _DELETE_RULE and number in _GONE):
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _route_socket() -> Iterator[socket.socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        yield netlink
