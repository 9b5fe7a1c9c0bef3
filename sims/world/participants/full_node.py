"""Build all cores of a node on a simulated machine, if circuits are simulated.

Link handshakes, onion signalling and packets of circuits are real bytes with real cryptography,
and they pass the product's userspace ESP engine. DHT messages use the carrier of the simulation.
The cores of a relay are built when the first datagram for it arrives.

Reasons: docs/decisions/0064.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from random import Random
from typing import Final

from overlay.addresses import Endpoint, InnerAddress, IpNetwork
from overlay.apm.settings import ApmSettings
from overlay.config import Configuration
from overlay.demultiplexer import Channel, frame
from overlay.dht.core import Dht
from overlay.dht.settings import DhtSettings
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.assembly import Surroundings, build_cores
from overlay.node.channel_sender import ChannelDatagram
from overlay.node.node_cores import NodeCores
from sims.world.participants.carriers import RawDatagram

__all__ = ["NoKillSwitch", "SimulatedPort", "SimulatedSender", "build_full_node"]

Send = Callable[[bytes, Endpoint], None]
"""Sends one datagram of a machine, in the form of the simulated network."""


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


def build_full_node(
    dht: Dht,
    identity: LocalIdentity,
    endpoint: Endpoint,
    *,
    network_id: str,
    settings: DhtSettings,
    exits: bool,
    rng: Random,
    send: Send,
) -> NodeCores:
    """Connect the product's cores to a running DHT core; ``send`` gets all datagrams."""
    given = _CONFIGURATION
    configuration = replace(
        given,
        network=replace(given.network, network_id=network_id),
        roles=replace(given.roles, exit=exits),
        dht=settings,
    )
    return build_cores(
        configuration,
        identity,
        Surroundings(
            network=SimulatedPort(send),
            kill_switch=NoKillSwitch(),
            local_address=lambda _peer: endpoint,
            local_addresses=frozenset,
            forget_inner_addresses=_forget,
            control=SimulatedSender(send),
        ),
        engine=UserspaceEngine(rng=rng),
        endpoints=(endpoint,),
        rng=rng,
        dht=dht,
    )


_CONFIGURATION: Final = Configuration(apm=ApmSettings(standby=False, watch_interval_s=1.0))
"""No standby circuits, because scenarios measure the fate of single circuits. Counters are read
rarely, because no packets of programs flow."""


def _forget(_addresses: Iterable[InnerAddress]) -> None:
    """Do nothing, because no connections are tracked."""


class SimulatedPort:
    """The UDP port of a machine: it sends packets of circuits to the simulated network."""

    __slots__ = ("_send_one",)

    def __init__(self, send: Send) -> None:
        self._send_one = send

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting."""
        for data, to in batch:
            self._send_one(RawDatagram(bytes(data)).as_payload(), to)

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send as :meth:`send_batch` does: the simulated network fragments nothing."""
        self.send_batch(batch)


class SimulatedSender:
    """Sends the datagrams of links and of the DHT to the simulated network."""

    __slots__ = ("_send_one",)

    def __init__(self, send: Send) -> None:
        self._send_one = send

    def send(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send DHT messages in the form of the carrier, and others as bytes with a frame."""
        for channel, payload, to in batch:
            if channel is Channel.DHT:
                self._send_one(payload, to)
            else:
                self._send_one(RawDatagram(frame(channel, payload)).as_payload(), to)

    def send_whole(self, batch: Sequence[ChannelDatagram]) -> None:
        """Send as :meth:`send` does: the simulated network fragments nothing."""
        self.send(batch)

    def send_apart(self, datagram: ChannelDatagram) -> None:
        """Send nothing: no simulated node is behind a NAT, so nothing follows from such tests."""
