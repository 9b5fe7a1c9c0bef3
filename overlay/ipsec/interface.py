"""Security associations and policies as values, which the translator passes to a backend.

The values do not depend on the backend: the userspace engine compiles them, and the Linux kernel
receives them as XFRM messages. The identity of an SA (:class:`SaIdentity`) is separate from its
configuration (:class:`SecurityAssociation`), as in RFC 4301, section 4.4.

Addresses are packed (4 or 16 bytes). Templates are listed **innermost first**, as in the kernel:
the first one is applied to the packet itself, and the last one is the link SA.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NewType, Protocol

from overlay.addresses import Endpoint
from overlay.sensitive import SecretBytes

__all__ = [
    "ANY_V4",
    "ANY_V6",
    "MAX_TEMPLATES",
    "MIN_SPI",
    "UNLIMITED",
    "BackendCapabilities",
    "Drop",
    "IpsecBackend",
    "IpsecConfiguration",
    "Lifetime",
    "PolicyDirection",
    "Prefix",
    "SaCounters",
    "SaIdentity",
    "SecurityAssociation",
    "SecurityPolicy",
    "Selector",
    "Spi",
    "Template",
    "UdpEncapsulation",
]

Spi = NewType("Spi", int)

MIN_SPI: Final = 256
"""SPIs 1 to 255 are reserved, 0 is for local use (RFC 4303, section 2.1)."""

MAX_TEMPLATES: Final = 6
"""Five onion layers and the link. The Linux kernel accepts only 5 (four hops and the link)."""


class PolicyDirection(enum.Enum):
    """The packets to which a policy applies (RFC 4301, section 4.4.1).

    Linux divides inbound packets into IN (for this host) and FWD (to be forwarded).
    """

    OUT = "out"
    IN = "in"
    FWD = "fwd"


@dataclass(frozen=True, slots=True)
class SaIdentity:
    """Key of an SA in the SAD: SPI and outer destination address (RFC 4301, section 4.1)."""

    spi: Spi
    destination: bytes


@dataclass(frozen=True, slots=True)
class UdpEncapsulation:
    """ESP in UDP (RFC 3948): both ends of the UDP flow that carries a link SA."""

    source: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Limits after which an SA is rekeyed (soft) or ends (hard); None means no limit."""

    soft_s: float | None = None
    hard_s: float | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None
    soft_bytes: int | None = None
    hard_bytes: int | None = None


UNLIMITED: Final = Lifetime()
"""Only the limits of the suite and of the sequence numbers apply.

Nearly all SAs share this value, which saves memory.
"""


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One direction of one ESP tunnel (RFC 4303), as both backends install it.

    ``keymat`` is the key and the salt (AEAD), or the encryption key and the authentication key,
    in this order (RFC 7296, section 2.17). ``overlay.ipsec.suites`` has the sizes.

    ``reqid`` is a number that this host chooses to connect SAs with templates. Successive SAs of
    one tunnel and direction have the same ``reqid``, so that rekeying changes no policy. For
    outbound packets the SA that was installed last is used.

    ``inbound`` is True if this host opens packets with the SA, and False if it seals them.
    ``tfc_pad_to`` is the size in bytes to which the sender pads each ESP payload (the packet with
    its TFC padding, RFC 4303, section 2.7); 0 means no padding.
    """

    spi: Spi
    reqid: int
    source: bytes
    destination: bytes
    suite: int
    keymat: SecretBytes
    inbound: bool
    encapsulation: UdpEncapsulation | None = None
    esn: bool = True
    replay_window: int = 1024
    tfc_pad_to: int = 0
    lifetime: Lifetime = UNLIMITED

    @property
    def identity(self) -> SaIdentity:
        """The key by which the SAD finds this SA."""
        return SaIdentity(self.spi, self.destination)


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IP prefix: packed network address and length in bits."""

    network: bytes
    length: int

    @classmethod
    def host(cls, packed: bytes) -> Prefix:
        """Return the prefix that contains only this address."""
        return cls(packed, len(packed) * 8)

    def contains(self, packed: bytes) -> bool:
        """Tell whether this prefix contains an address; False if the IP version differs."""
        if len(packed) != len(self.network):
            return False
        shift = len(packed) * 8 - self.length
        return (
            int.from_bytes(packed, "big") >> shift == int.from_bytes(self.network, "big") >> shift
        )


ANY_V4: Final = Prefix(bytes(4), 0)
ANY_V6: Final = Prefix(bytes(16), 0)


@dataclass(frozen=True, slots=True)
class Selector:
    """The packets that a policy matches; ``protocol`` is the IP next header, None for any."""

    source: Prefix
    destination: Prefix
    protocol: int | None = None

    def matches(self, source: bytes, destination: bytes, protocol: int) -> bool:
        """Tell whether a packet with these packed addresses and this protocol matches."""
        return (
            (self.protocol is None or self.protocol == protocol)
            and self.source.contains(source)
            and self.destination.contains(destination)
        )


@dataclass(frozen=True, slots=True)
class Template:
    """One ESP tunnel of a policy: its outer addresses and the ``reqid`` of its SAs."""

    source: bytes
    destination: bytes
    reqid: int


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """The tunnels of the packets that match a selector, innermost first (RFC 4301, 4.4.1).

    Outbound packets are sealed with these templates. Inbound packets (IN: for this host; FWD: to
    be forwarded) must have arrived through exactly these tunnels. Other packets that match the
    selector are dropped.
    """

    direction: PolicyDirection
    selector: Selector
    templates: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class IpsecConfiguration:
    """The SAs and policies of one circuit or one link on this host; the translator makes them.

    ``local_addresses`` are addresses that this host must have while the value is installed.
    """

    associations: tuple[SecurityAssociation, ...]
    policies: tuple[SecurityPolicy, ...]
    local_addresses: tuple[bytes, ...] = ()


class Drop(enum.Enum):
    """Why a backend dropped a packet; the values are the kernel's counters if it has one."""

    IN_HDR_ERROR = "XfrmInHdrError"
    IN_NO_STATES = "XfrmInNoStates"
    IN_STATE_PROTO_ERROR = "XfrmInStateProtoError"
    IN_STATE_SEQ_ERROR = "XfrmInStateSeqError"
    IN_STATE_EXPIRED = "XfrmInStateExpired"
    IN_TMPL_MISMATCH = "XfrmInTmplMismatch"
    IN_NO_POLS = "XfrmInNoPols"
    OUT_ERROR = "XfrmOutError"
    """The bytes are no IP packet, or the packet does not fit into a tunnel."""
    OUT_NO_STATES = "XfrmOutNoStates"
    OUT_STATE_SEQ_ERROR = "XfrmOutStateSeqError"
    OUT_STATE_EXPIRED = "XfrmOutStateExpired"
    OUT_POL_BLOCK = "XfrmOutPolBlock"
    DUMMY = "Dummy"
    """A dummy packet (next header 59). RFC 4303, section 2.6 requires to drop it; no error."""

    # Enum.__hash__ is a Python function and slow. Each drop is counted in two dictionaries, so the
    # hash costs CPU time during a flood of invalid packets.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class SaCounters:
    """Counters of one SA since it was installed.

    ``last_used`` is in Unix seconds, or None if the backend does not know it.
    """

    packets: int
    payload_bytes: int
    sequence: int
    last_used: float | None
    drops: tuple[tuple[Drop, int], ...] = ()


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """Capabilities of an open backend.

    Attributes:
        name: The name of its entry point.
        suites: The ESP suites that work on this host.
        max_templates: Maximum number of hops plus the link.
        sends_pieces: Whether it sends large packets in pieces. If not, inner packets are limited
            to a size that needs none, and links do not probe the path MTU
            (``docs/decisions/0054``).
        moves_outer_addresses: Whether SAs of a link that moves get new outer addresses.
        separates_directions: Whether an inbound and an outbound SA may have the same identity.
    """

    name: str
    suites: frozenset[int]
    max_templates: int
    sends_pieces: bool = False
    moves_outer_addresses: bool = False
    separates_directions: bool = False


class IpsecBackend(Protocol):
    """A backend that enforces IPsec configurations; both pass the same conformance tests.

    Calls are synchronous and atomic: a call that raises an exception has changed nothing.
    """

    def capabilities(self) -> BackendCapabilities:
        """Return the capabilities of this backend."""
        ...

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install SAs, policies and addresses.

        Raises:
            ValueError: an SA or policy with the same identity is installed, or a suite,
                key size or number of templates is not supported.
            BackendError: the operating system refused the request.
        """
        ...

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what :meth:`install` installed for the same value; absent parts are no error.

        This never raises an exception. If the operating system fails to remove a part, the
        backend removes that part later.
        """
        ...

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the counters of an SA, or None if it is not installed.

        Raises:
            BackendError: the operating system did not answer the query.
        """
        ...

    def flush(self) -> None:
        """Remove everything that this node installed, and nothing that others installed."""
        ...


Batch = Sequence[tuple[bytes, Endpoint]]
"""Datagrams, each with the endpoint from which it came or to which it is sent."""
