"""Egress programs of an exit: no device sends a packet from a pool address.

They are a second mechanism below the packet filter (``overlay.system.exit_firewall``). They keep
working if another program flushes all rules. They also replace a rule after address translation,
for which iptables has no hook. Packets into circuits are not affected, because they leave inside
IPsec with another source address. ARP packets contain the sender's address, so they are judged too.

The program is classic BPF (for the reasons see ``overlay.system.egress_program``)::

    IPv4, ARP, IPv6: is the (sender's) address in the pool? ─yes─> drop
    else ──> go on

Unlike the programs of the kill switch, it has no exception for neighbour discovery or marks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.system.egress_filter import EgressFilter
from overlay.system.exit_firewall import OWN_DEVICES

__all__ = ["egress_instructions", "install_egress_wall", "remove_egress_wall"]

_log = EventLog(__name__)

_PRIORITY: Final = 0x6D64
"""Priority of the exit's program on each device; the kill switch's programs have another one."""

_DROP: Final = 2
_LOAD_HALF: Final = 0x28
_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_GO_ON: Final = 0xFFFFFFFF
"""TC_ACT_UNSPEC: the next program of the device decides."""
_PROTOCOL_OF_PACKET: Final = 0xFFFFF000
"""SKF_AD_OFF + SKF_AD_PROTOCOL."""
_IP_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF; in an ARP packet, this is the ARP header."""

_SENDERS: Final = {4: ((0x0800, 12), (0x0806, 14)), 6: ((0x86DD, 8),)}
"""By IP version: EtherType, and offset of the sender's address (RFC 791, 826, 8200)."""


def install_egress_wall(pools: Sequence[IpNetwork], inside: Sequence[str]) -> bool:
    """Install the program on every device, and tell whether this kernel supports it.

    If it does not, only the packet filter is left, and a warning is logged. If one device refuses,
    the other devices still get the program. The call may be repeated.

    Args:
        pools: networks of inner addresses.
        inside: devices that lead into circuits, besides the node's own.
    """
    program = egress_instructions(pools)
    exact = {*inside, "lo"}
    begins = OWN_DEVICES.removesuffix("*")

    def programs_of(device: str) -> tuple[bytes, ...]:
        return () if device in exact or device.startswith(begins) else (program,)

    try:
        outcome = EgressFilter(_PRIORITY).enforce(programs_of)
    except BackendError as error:
        _log.warning("exit.no_egress_wall", reason=Word(error))
        return False
    if outcome.refused and outcome.changed:  # else the warning was logged by an earlier call
        reason = next(iter(outcome.refused.values()))
        _log.warning("exit.no_egress_wall", devices=len(outcome.refused), reason=Word(reason))
    return bool(outcome.held) or not outcome.refused


def remove_egress_wall() -> None:
    """Remove the program, including one that a killed exit left; there need be none.

    Raises:
        BackendError: no permission.
    """
    EgressFilter(_PRIORITY).remove()


def egress_instructions(pools: Sequence[IpNetwork]) -> bytes:
    """Return the program, with eight bytes per instruction in the host's byte order."""
    blocks = [
        _block(pool, ether_type, offset)
        for pool in pools
        for ether_type, offset in _SENDERS[pool.version]
    ]
    return b"".join([*blocks, _instruction(_RETURN, _GO_ON)])


def _block(pool: IpNetwork, ether_type: int, offset: int) -> bytes:
    """Return code that drops packets of one EtherType from a pool; others go to the next block."""
    address, mask = pool.network_address.packed, pool.netmask.packed
    words = [(int.from_bytes(mask[at : at + 4], "big"), at) for at in range(0, len(mask), 4)]
    compared = [(bits, at) for bits, at in words if bits]
    after = 3 * len(compared) + 1  # instructions between the first comparison and the next block
    program = [
        _instruction(_LOAD_HALF, _PROTOCOL_OF_PACKET),
        _instruction(_JUMP_IF_EQUAL, ether_type, otherwise=after),
    ]
    for bits, at in compared:
        after -= 3
        value = int.from_bytes(address[at : at + 4], "big")
        program += [
            _instruction(_LOAD_WORD, _IP_HEADER + offset + at),
            _instruction(_AND, bits),
            _instruction(_JUMP_IF_EQUAL, value, otherwise=after),
        ]
    return b"".join([*program, _instruction(_RETURN, _DROP)])


def _instruction(code: int, value: int, *, otherwise: int = 0) -> bytes:
    """Return one instruction: code (2), jump if true and if false (1 each), value (4)."""
    return struct.pack("=HBBI", code, 0, otherwise, value)
