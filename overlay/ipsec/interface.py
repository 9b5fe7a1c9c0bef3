"""Security associations and policies as values: the language of translator and backends.

What *identifies* an SA (:class:`SaIdentity`) is apart from what *configures* it
(:class:`SecurityAssociation`), as in RFC 4301, section 4.4. Everything is neutral to the
backend: the userspace engine compiles these values into plans, the Linux kernel takes them
as XFRM messages.

Addresses are packed (4 or 16 bytes). Templates are listed **innermost first**, as the
kernel does: the first is applied to the packet itself, the last one is the link SA.
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
"""Five onion layers and the link. The Linux kernel takes 5 (four hops and the link)."""


class PolicyDirection(enum.Enum):
    """Which packets a policy speaks of (RFC 4301, section 4.4.1; Linux splits inbound in two)."""

    OUT = "out"
    IN = "in"
    FWD = "fwd"


@dataclass(frozen=True, slots=True)
class SaIdentity:
    """What the SAD is searched by: SPI and outer destination address (RFC 4301, section 4.1)."""

    spi: Spi
    destination: bytes


@dataclass(frozen=True, slots=True)
class UdpEncapsulation:
    """ESP in UDP (RFC 3948): both ends of the UDP flow that carries a link SA."""

    source: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Limits after which an SA is rekeyed (soft) or dies (hard); None means no limit."""

    soft_s: float | None = None
    hard_s: float | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None
    soft_bytes: int | None = None
    hard_bytes: int | None = None


UNLIMITED: Final = Lifetime()
"""Only the suite and the sequence numbers end the SA; one value, for nearly all SAs share it."""


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One direction of one ESP tunnel (RFC 4303), as both backends install it.

    ``keymat`` is the cipher's key followed by its salt (AEAD), or the encryption key
    followed by the authentication key (RFC 7296, section 2.17 order within one SA);
    ``overlay.ipsec.suites`` knows the sizes for each suite.

    ``reqid`` is a number of this host's that ties SAs to templates: successive SAs of one
    tunnel and direction share it, so that rekeying never touches a policy. Outbound, the
    SA installed last is used.

    ``inbound`` tells whether this host opens (True) or seals (False) with it.
    ``tfc_pad_to`` is the size in bytes of the ESP payload (the encapsulated packet and its
    TFC padding, RFC 4303 section 2.7) up to which a sender pads; 0 for none.
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
        """The pair by which the SAD finds it."""
        return SaIdentity(self.spi, self.destination)


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IP prefix: packed network address and length in bits."""

    network: bytes
    length: int

    @classmethod
    def host(cls, packed: bytes) -> Prefix:
        """The prefix of exactly one address."""
        return cls(packed, len(packed) * 8)

    def contains(self, packed: bytes) -> bool:
        """Tell whether an address of the same family lies in this prefix."""
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
    """Which packets a policy matches; ``protocol`` is the IP next header, None for any."""

    source: Prefix
    destination: Prefix
    protocol: int | None = None

    def matches(self, source: bytes, destination: bytes, protocol: int) -> bool:
        """Tell whether a packet with these (packed) addresses and protocol is meant."""
        return (
            (self.protocol is None or self.protocol == protocol)
            and self.source.contains(source)
            and self.destination.contains(destination)
        )


@dataclass(frozen=True, slots=True)
class Template:
    """One ESP tunnel that a policy's packets pass: outer addresses and the SAs' ``reqid``."""

    source: bytes
    destination: bytes
    reqid: int


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """Packets that match must pass exactly these tunnels, innermost first (RFC 4301, 4.4.1).

    Outbound, the templates are applied. Inbound (IN: the packet is for this host; FWD: it
    is forwarded) they must be those that the packet came through; no other packet matching
    the selector is let in.
    """

    direction: PolicyDirection
    selector: Selector
    templates: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class IpsecConfiguration:
    """What one circuit, or one link, needs from IPsec on this host; the translator's output.

    ``local_addresses`` are addresses that this host must hold while it is installed.
    """

    associations: tuple[SecurityAssociation, ...]
    policies: tuple[SecurityPolicy, ...]
    local_addresses: tuple[bytes, ...] = ()


class Drop(enum.Enum):
    """Why the data path dropped a packet, named after the kernel's counters where those exist."""

    IN_HDR_ERROR = "XfrmInHdrError"
    IN_NO_STATES = "XfrmInNoStates"
    IN_STATE_PROTO_ERROR = "XfrmInStateProtoError"
    IN_STATE_SEQ_ERROR = "XfrmInStateSeqError"
    IN_STATE_EXPIRED = "XfrmInStateExpired"
    IN_TMPL_MISMATCH = "XfrmInTmplMismatch"
    IN_NO_POLS = "XfrmInNoPols"
    OUT_ERROR = "XfrmOutError"
    """No IP packet, or one that does not fit a tunnel."""
    OUT_NO_STATES = "XfrmOutNoStates"
    OUT_STATE_SEQ_ERROR = "XfrmOutStateSeqError"
    OUT_STATE_EXPIRED = "XfrmOutStateExpired"
    OUT_POL_BLOCK = "XfrmOutPolBlock"
    DUMMY = "Dummy"
    """A dummy packet (next header 59): dropped as RFC 4303, section 2.6 wants it; no error."""

    # Enum's own is a Python function, and a flood of garbage counts each drop twice.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class SaCounters:
    """What has passed an SA since it was installed, and what was dropped at it.

    ``last_used`` is in Unix seconds, None where the engine does not know.
    """

    packets: int
    payload_bytes: int
    sequence: int
    last_used: float | None
    drops: tuple[tuple[Drop, int], ...] = ()


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """What a backend can do; ``max_templates`` bounds the hops of a circuit (hops + 1 link)."""

    name: str
    suites: frozenset[int]
    max_templates: int
    in_kernel: bool


class IpsecBackend(Protocol):
    """Enforce IPsec configurations; both backends pass the same conformance suite.

    Calls are synchronous and atomic: after an exception nothing of the call remains.
    """

    def capabilities(self) -> BackendCapabilities:
        """Tell what this backend can do."""
        ...

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install SAs, policies and addresses.

        Raises:
            ValueError: an SA or policy with the same identity is installed, or a suite,
                key size or template count does not fit.
            BackendError: the operating system refused.
        """
        ...

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what :meth:`install` of the same value installed; absent parts are no error.

        It never fails: what the operating system keeps is the backend's to remove later.
        """
        ...

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the counters of an SA, or None if it is not installed.

        Raises:
            BackendError: the operating system could not be asked.
        """
        ...

    def flush(self) -> None:
        """Remove everything that this node installed, and nothing else."""
        ...


Batch = Sequence[tuple[bytes, Endpoint]]
"""Datagrams with the endpoint that they come from or go to."""
