"""Messages for reachability tests, and for meetings of nodes behind one NAT.

==============  ====  ===========================================  ============
kind            code  body                                         answer
==============  ====  ===========================================  ============
WANT_PROBE      6     [descriptor, port (u16), nonce (12)]         PROBE_STATE
SEND_PROBE      7     [descriptor, address (4 or 16), port (u16),  PROBE_STATE
                      nonce (12)]
MEET            8     [target (20), sealed (0 to 320)]             MET
PROBE_STATE     16    [state (0 to 2)]
MET             17    [present (bool), sealed (0 to 320)]
==============  ====  ===========================================  ============
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.kinds import MessageKind
from overlay.errors import Malformed

__all__ = [
    "MAX_PROOF_BYTES",
    "MAX_SEALED_BYTES",
    "PROBE_NONCE_BYTES",
    "HelpReply",
    "HelpRequest",
    "Meet",
    "Met",
    "ProbeProgress",
    "ProbeState",
    "SendProbe",
    "WantProbe",
    "parse_help_reply",
    "parse_help_request",
]

MAX_PROOF_BYTES: Final = 512
"""A descriptor without an exit policy; one of 1,000 bytes and an endpoint would exceed 1,200."""

PROBE_NONCE_BYTES: Final = 12
"""As long as a request id, because it becomes the request id of the probe."""

MAX_SEALED_BYTES: Final = 320
"""The size of up to four endpoints, signed and encrypted, for another node behind the same NAT."""


@dataclass(frozen=True, slots=True)
class WantProbe:
    """Request that another node probes the sender's endpoint at the source address of this request.

    ``record`` is the sender's descriptor, which names the endpoint. The probe is a PING with
    ``nonce`` as its request id. If the request is repeated, the answer is the state of the probe.
    """

    record: bytes
    port: int
    nonce: bytes

    @property
    def kind(self) -> MessageKind:
        """WANT_PROBE."""
        return MessageKind.WANT_PROBE

    def body(self) -> list[object]:
        """The descriptor, the port and the nonce."""
        return [self.record, self.port, self.nonce]


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Probe this endpoint of another node, which its descriptor ``record`` names."""

    record: bytes
    endpoint: Endpoint
    nonce: bytes

    @property
    def kind(self) -> MessageKind:
        """SEND_PROBE."""
        return MessageKind.SEND_PROBE

    def body(self) -> list[object]:
        """The descriptor, the endpoint and the nonce."""
        return [self.record, self.endpoint.packed, self.endpoint.port, self.nonce]


@dataclass(frozen=True, slots=True)
class Meet:
    """Ask whether the node ``target`` has the sender's outside address too, and leave data for it.

    Only the target can decrypt ``sealed``. It is empty if there is no data yet.
    """

    target: NodeId
    sealed: bytes

    @property
    def kind(self) -> MessageKind:
        """MEET."""
        return MessageKind.MEET

    def body(self) -> list[object]:
        """The target and the data that is encrypted to it."""
        return [self.target, self.sealed]


class ProbeProgress(enum.IntEnum):
    """The state of a probe; its value is the number on the wire."""

    REFUSED = 0
    PENDING = 1
    SENT = 2


@dataclass(frozen=True, slots=True)
class ProbeState:
    """Whether the probe was sent, will be sent, or is refused, without a reason."""

    progress: ProbeProgress

    @property
    def kind(self) -> MessageKind:
        """PROBE_STATE."""
        return MessageKind.PROBE_STATE

    def body(self) -> list[object]:
        """The number of the state."""
        return [int(self.progress)]


@dataclass(frozen=True, slots=True)
class Met:
    """Whether the target has asked from the same address lately, and what it left."""

    present: bool
    sealed: bytes

    @property
    def kind(self) -> MessageKind:
        """MET."""
        return MessageKind.MET

    def body(self) -> list[object]:
        """Both."""
        return [self.present, self.sealed]


HelpRequest = WantProbe | SendProbe | Meet
HelpReply = ProbeState | Met

_PROGRESS: Final = frozenset(map(int, ProbeProgress))


def parse_help_request(kind: MessageKind, body: list[object]) -> HelpRequest:
    """Turn a request's body into a value.

    Raises:
        Malformed: the body does not have its kind's layout, or the kind is none of these.
    """
    match kind, body:
        case MessageKind.WANT_PROBE, [record, port, nonce]:
            return WantProbe(_proof(record), _port(port), _nonce(nonce))
        case MessageKind.SEND_PROBE, [record, bytes() as address, port, nonce]:
            endpoint = Endpoint.from_packed(address, _port(port))
            if endpoint.packed != address:
                raise Malformed("an endpoint's IPv4 address must have 4 bytes")
            return SendProbe(_proof(record), endpoint, _nonce(nonce))
        case MessageKind.MEET, [bytes() as target, sealed] if len(target) == NODE_ID_BYTES:
            return Meet(NodeId(target), _sealed(sealed))
        case _:
            raise Malformed("a request's body does not fit its kind")


def parse_help_reply(kind: MessageKind, body: list[object]) -> HelpReply:
    """Turn a reply's body into a value.

    Raises:
        Malformed: the body does not have its kind's layout, or the kind is none of these.
    """
    match kind, body:
        case MessageKind.PROBE_STATE, [state] if type(state) is int and state in _PROGRESS:
            return ProbeState(ProbeProgress(state))
        case MessageKind.MET, [bool() as present, sealed]:
            return Met(present, _sealed(sealed))
        case _:
            raise Malformed("a reply's body does not fit its kind")


def _proof(value: object) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_PROOF_BYTES:
        raise Malformed(f"a descriptor that proves an endpoint has at most {MAX_PROOF_BYTES} bytes")
    return value


def _port(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise Malformed("a port is between 1 and 65535")
    return value


def _nonce(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != PROBE_NONCE_BYTES:
        raise Malformed(f"the nonce of a probe has {PROBE_NONCE_BYTES} bytes")
    return value


def _sealed(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_SEALED_BYTES:
        raise Malformed(f"what is sealed has at most {MAX_SEALED_BYTES} bytes")
    return value
