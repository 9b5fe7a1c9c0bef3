"""Run all cores of a node on a simulated machine, if circuits are simulated.

Link handshakes, onion signalling and packets of circuits are real bytes with real cryptography,
and they pass the product's userspace ESP engine. DHT messages use the carrier of the simulation.
The cores of a relay are built when the first datagram for it arrives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final

from overlay.addresses import Endpoint, InnerAddress, IpNetwork
from overlay.apm.settings import ApmSettings
from overlay.config import Configuration
from overlay.demultiplexer import Channel, frame
from overlay.dht.core import Dht
from overlay.dht.events import DhtEvent
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.assembly import Surroundings, build_cores
from overlay.node.node_cores import NodeCores
from overlay.node.shells.packet_transport import DatagramSink
from sims.world.participants.carriers import RawDatagram

__all__ = [
    "NoKillSwitch",
    "PlaneSink",
    "SimulatedPlane",
    "build_plane",
]

SendDht = Callable[[bytes, Endpoint], None]
OnDhtEvent = Callable[[DhtEvent], None]


class SimulatedPlane(NodeCores):
    """The cores of a node, whose DHT messages leave through the simulation's carrier."""

    def __init__(self, *, send_dht: SendDht, on_dht_event: OnDhtEvent, **cores: Any) -> None:  # noqa: ANN401 - the parent's
        super().__init__(**cores)
        self._send_dht = send_dht
        self._on_dht_event = on_dht_event

    def _dht_event(self, event: DhtEvent, now: float) -> None:
        super()._dht_event(event, now)
        self._on_dht_event(event)

    def _send(self, now: float) -> bool:
        packets = self.circuits.packets_to_send(now)
        if packets:
            self.datapath.send(packets, now)
        handshakes = self.links.datagrams_to_send(now)
        if handshakes:
            self._network.send_batch([(frame(Channel.LINK, data), to) for data, to in handshakes])
        messages = self.dht.datagrams_to_send(now)
        for datagram, to in messages:
            self._send_dht(datagram, to)
        return bool(packets or handshakes or messages)


class NoKillSwitch:
    """A kill switch for simulated hosts, which does nothing because no programs run there."""

    def protect(self, *destinations: IpNetwork) -> None:
        """Do nothing, because a simulated host sends nothing outside of circuits."""

    def carry(self, *carried: tuple[IpNetwork, InnerAddress]) -> None:
        """Do nothing, because no program runs on the host."""

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Do nothing, as in :meth:`carry`."""

    def together(self) -> AbstractContextManager[None]:
        """Nothing changes inside."""
        return contextlib.nullcontext()

    def release(self, *destinations: IpNetwork) -> None:
        """Do nothing, because nothing was protected."""


def build_plane(
    dht: Dht,
    identity: LocalIdentity,
    endpoint: Endpoint,
    *,
    network_id: str,
    settings: DhtSettings,
    exits: bool,
    rng: Random,
    sink: DatagramSink,
    send_dht: SendDht,
    on_dht_event: OnDhtEvent,
) -> SimulatedPlane:
    """Connect the product's cores to a running DHT core."""
    given = _CONFIGURATION
    configuration = replace(
        given,
        network=replace(given.network, network_id=network_id),
        roles=replace(given.roles, exit=exits),
        dht=settings,
    )
    plane = build_cores(
        configuration,
        identity,
        Surroundings(
            network=sink,
            kill_switch=NoKillSwitch(),
            local_address=lambda _peer: endpoint,
            local_addresses=frozenset,
            forget_inner_addresses=_forget,
        ),
        engine=UserspaceEngine(rng=rng),
        endpoints=(endpoint,),
        rng=rng,
        dht=dht,
        make=partial(SimulatedPlane, send_dht=send_dht, on_dht_event=on_dht_event),
    )
    assert isinstance(plane, SimulatedPlane)  # what ``make`` made
    return plane


_CONFIGURATION: Final = Configuration(apm=ApmSettings(standby=False, watch_interval_s=1.0))
"""No standby circuits, because scenarios measure the fate of single circuits. Counters are read
rarely, because no packets of programs flow."""


def _forget(_addresses: Iterable[InnerAddress]) -> None:
    """Do nothing, because no connections are tracked."""


class PlaneSink:
    """Sends the datagrams of a node's cores to the simulated network."""

    __slots__ = ("_send",)

    def __init__(self, send: SendDht) -> None:
        self._send = send

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting."""
        for data, to in batch:
            self._send(RawDatagram(bytes(data)).as_payload(), to)

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send as :meth:`send_batch` does: the simulated network fragments nothing."""
        self.send_batch(batch)
