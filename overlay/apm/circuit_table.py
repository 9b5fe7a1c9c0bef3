"""The soft state of circuits: the paper's Anonymous Connections Information Manager.

::

    source   RequestedCircuit -> PendingCircuit -> OpenCircuit
             (waits for a link)  (onion sent)      (confirmed)
    hop      HeldCircuit -> RelayedCircuit         ExitCircuit
             (waits for a link)  (installed)       (installed)

Each phase has its own type, which has only the fields of this phase.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from overlay.addresses import CircuitAddress, IpNetwork, OverlayAddress
from overlay.apm.circuit_size_search import CircuitSizeSearch
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo, SourceIpsecInfo
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.keepalive import CircuitWatch
from overlay.apm.layer import RelayLayer
from overlay.errors import InternalError, Refused
from overlay.ipsec.interface import IpsecConfiguration, Spi
from overlay.link.security import FIRST_CIRCUIT_REQID
from overlay.selection.selector import MixPath

__all__ = [
    "CircuitTable",
    "ExitCircuit",
    "HeldCircuit",
    "HopCircuit",
    "InstalledHopCircuit",
    "OpenCircuit",
    "PendingCircuit",
    "RelayedCircuit",
    "RequestedCircuit",
    "SourceCircuit",
    "swapped_lent",
    "with_renewed_sas",
]


@dataclass(frozen=True, slots=True)
class RequestedCircuit:
    """An own circuit whose first link is not up yet."""

    number: int
    path: MixPath
    destination: IpNetwork


@dataclass(frozen=True, slots=True)
class PendingCircuit:
    """An own circuit whose onion was sent and that is not confirmed yet."""

    number: int
    path: MixPath
    destination: IpNetwork
    ipsec: SourceIpsecInfo


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """An own circuit that carries packets; times in Unix seconds.

    ``size`` is None if every circuit carries all packets that programs may send.
    """

    number: int
    path: MixPath
    destination: IpNetwork
    ipsec: SourceIpsecInfo
    inner_addresses: InnerAddresses
    inner_configuration: IpsecConfiguration
    opened_at: float
    expires_at: float
    watch: CircuitWatch
    ticket: bytes
    size: CircuitSizeSearch | None = None


@dataclass(frozen=True, slots=True)
class HeldCircuit:
    """A circuit of another node that waits for the link to its next hop."""

    number: int
    previous: OverlayAddress
    sas: OnionSas
    layer: RelayLayer
    peeled: bytes

    @property
    def next_hop(self) -> OverlayAddress:
        """The node to which the onion is forwarded."""
        return self.layer.next_hop.overlay_address


@dataclass(frozen=True, slots=True)
class RelayedCircuit:
    """A circuit of another node that this node relays; times in Unix seconds."""

    number: int
    previous: OverlayAddress
    sas: OnionSas
    next_hop: OverlayAddress
    ipsec: RelayIpsecInfo
    opened_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class ExitCircuit:
    """A circuit of another node for which this node is the exit; times in Unix seconds.

    ``confirmations`` is the number of CONFIRM messages sent. ``ticket`` belongs to the inner
    addresses and moves with them to another circuit.
    """

    number: int
    previous: OverlayAddress
    sas: OnionSas
    ipsec: ExitIpsecInfo
    ticket: bytes
    opened_at: float
    expires_at: float
    confirmations: int = 0
    confirmed: bool = False


SourceCircuit = RequestedCircuit | PendingCircuit | OpenCircuit
InstalledHopCircuit = RelayedCircuit | ExitCircuit
HopCircuit = HeldCircuit | RelayedCircuit | ExitCircuit


def with_renewed_sas(circuit: InstalledHopCircuit, sas: OnionSas) -> InstalledHopCircuit:
    """Return a circuit of another node with its SAs replaced."""
    match circuit:
        case RelayedCircuit():
            ipsec = dataclasses.replace(circuit.ipsec, sas=sas)
            return dataclasses.replace(circuit, sas=sas, ipsec=ipsec)
        case ExitCircuit():
            exit_ipsec = dataclasses.replace(circuit.ipsec, sas=sas)
            return dataclasses.replace(circuit, sas=sas, ipsec=exit_ipsec)


def swapped_lent(one: ExitCircuit, other: ExitCircuit) -> tuple[ExitCircuit, ExitCircuit]:
    """Return both circuits, each with the inner addresses and the ticket of the other."""
    return _with_lent(one, other), _with_lent(other, one)


def _with_lent(circuit: ExitCircuit, giver: ExitCircuit) -> ExitCircuit:
    ipsec = dataclasses.replace(circuit.ipsec, inner_addresses=giver.ipsec.inner_addresses)
    return dataclasses.replace(circuit, ipsec=ipsec, ticket=giver.ticket)


# Large: one table has several indices, which change together.
class CircuitTable:
    """All circuits of this node, in any role, by their process-local numbers.

    The table has no limit of its own. Before adding a circuit, the source side checks
    ``max_source_circuits`` and the relay side checks ``max_circuits``.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._reqids = itertools.count(FIRST_CIRCUIT_REQID)
        self._sources: dict[int, SourceCircuit] = {}
        self._hops: dict[int, HopCircuit] = {}
        self._addresses: dict[CircuitAddress, int] = {}
        self._forward_spis: set[Spi] = set()
        self._tickets: dict[bytes, int] = {}

    def new_number(self) -> int:
        """Return a number that no circuit of this process has had."""
        return next(self._numbers)

    def new_reqid(self) -> int:
        """Return a reqid that no SA of this process has had."""
        return next(self._reqids)

    def request_ipsec_info(self, number: int) -> SourceIpsecInfo | RelayIpsecInfo | ExitIpsecInfo:
        """Return the IPsec information of a circuit (the paper's ``nitcm_request_ipsec_info()``).

        Raises:
            InternalError: there is no such circuit, or it waits for a link.
        """
        circuit = self._sources.get(number) or self._hops.get(number)
        if circuit is None or isinstance(circuit, RequestedCircuit | HeldCircuit):
            raise InternalError("a circuit has no IPsec information yet, or any more")
        return circuit.ipsec

    def uses(self, address: CircuitAddress) -> bool:
        """Tell whether a circuit address belongs to a circuit of this node, in any role."""
        return address in self._addresses

    def addresses(self) -> frozenset[CircuitAddress]:
        """Return the circuit addresses in use, in any role."""
        return frozenset(self._addresses)

    def forward_spis(self) -> frozenset[Spi]:
        """Return the SPIs for packets to this node, those of unfinished exchanges included."""
        return frozenset(self._forward_spis)

    def has_hop_with(self, forward_spi: Spi) -> bool:
        """Tell whether a circuit of another node has this SPI for packets to this node.

        SPIs of links and of own circuits do not count, because those SAs have another destination
        (RFC 4301, section 4.1). The source that chose ``forward_spi`` must not learn of them.
        """
        return forward_spi in self._forward_spis

    def claim_forward_spi(self, spi: Spi) -> None:
        """Reserve an SPI for packets to this node, for an SA that replaces another one.

        Raises:
            Refused: a circuit of another node has the SPI.
        """
        if self.has_hop_with(spi):
            raise Refused("another SA towards this host has the same SPI")
        self._forward_spis.add(spi)

    def release_forward_spi(self, spi: Spi) -> None:
        """Release the SPI of an SA that no circuit uses any more."""
        self._forward_spis.discard(spi)

    # --- own circuits ---

    def put_source(self, circuit: SourceCircuit) -> None:
        """Add an own circuit, or replace it by its next phase."""
        self._sources[circuit.number] = circuit
        if not isinstance(circuit, RequestedCircuit):
            for sas in circuit.ipsec.hops:
                self._addresses[sas.near] = circuit.number

    def source(self, number: int) -> SourceCircuit | None:
        """Return an own circuit, None if there is none with this number."""
        return self._sources.get(number)

    def sources(self) -> list[SourceCircuit]:
        """Return all own circuits, in the order of their requests."""
        return list(self._sources.values())

    def source_by_near(
        self, near: CircuitAddress, hop: OverlayAddress
    ) -> tuple[PendingCircuit | OpenCircuit, int] | None:
        """Return the own circuit with this near address for this hop, and the hop's position."""
        circuit = self._sources.get(self._addresses.get(near, 0))
        if circuit is None or isinstance(circuit, RequestedCircuit):
            return None
        for position, sas in enumerate(circuit.ipsec.hops, start=1):
            if sas.near == near and sas.hop == hop:
                return circuit, position
        return None

    def remove_source(self, number: int) -> None:
        """Remove an own circuit."""
        circuit = self._sources.pop(number)
        if not isinstance(circuit, RequestedCircuit):
            for sas in circuit.ipsec.hops:
                del self._addresses[sas.near]

    # --- circuits of other nodes ---

    def put_hop(self, circuit: HopCircuit) -> None:
        """Add a circuit of another node, or replace it by its next phase."""
        if circuit.number not in self._hops:
            self._forward_spis.add(circuit.sas.forward_spi)
            for address in _addresses_of(circuit):
                self._addresses[address] = circuit.number
        self._hops[circuit.number] = circuit
        if isinstance(circuit, ExitCircuit):
            self._tickets[circuit.ticket] = circuit.number

    def hop(self, number: int) -> HopCircuit | None:
        """Return a circuit of another node, None if there is none with this number."""
        return self._hops.get(number)

    def hops(self) -> list[HopCircuit]:
        """Return all circuits of other nodes."""
        return list(self._hops.values())

    def hop_by_near(self, near: CircuitAddress) -> HopCircuit | None:
        """Return the circuit whose source sends to this node from this address."""
        circuit = self._hops.get(self._addresses.get(near, 0))
        return circuit if circuit is not None and circuit.sas.near == near else None

    def exit_with(self, ticket: bytes) -> ExitCircuit | None:
        """Return the circuit that has the inner addresses of a ticket, None if there is none."""
        circuit = self._hops.get(self._tickets.get(ticket, 0))
        return circuit if isinstance(circuit, ExitCircuit) else None

    def count_hops(self, matching: Callable[[HopCircuit], bool]) -> int:
        """Return the number of circuits of other nodes that match."""
        return sum(matching(circuit) for circuit in self._hops.values())

    def hops_in_total(self) -> int:
        """Return the number of circuits of other nodes."""
        return len(self._hops)

    def remove_hop(self, number: int) -> None:
        """Remove a circuit of another node."""
        circuit = self._hops.pop(number)
        for address in _addresses_of(circuit):
            if self._addresses.pop(address, None) != number:
                raise InternalError("a circuit address belonged to another circuit")
        self._forward_spis.discard(circuit.sas.forward_spi)
        if isinstance(circuit, ExitCircuit):
            self._tickets.pop(circuit.ticket, None)


def _addresses_of(circuit: HopCircuit) -> tuple[CircuitAddress, ...]:
    match circuit:
        case HeldCircuit():
            return circuit.sas.near, circuit.layer.far
        case RelayedCircuit():
            return circuit.sas.near, circuit.ipsec.far
        case ExitCircuit():
            return (circuit.sas.near,)
