"""Clients: nodes that keep one anonymous path open each, as a user does."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.errors import ConfigurationError, OverlayError, PluginError
from overlay.paths.requested_path import PathState, PathTerms, RequestedPath
from sims.scenario.sections import Circuits
from sims.world.participants.machine import Machine
from sims.world.participants.protocols import Clients
from sims.world.participants.recorder import Recorder

__all__ = ["Client", "ScenarioClients"]

_RETRY_S: Final = 30.0
_FIRST_REQUEST_S: Final = 60.0
"""A client requests its first path at a random time in this interval after its first crawl."""

_DESTINATION: Final = ipaddress.ip_network("203.0.114.10/32")
"""A public address, because exits refuse documentation addresses."""


class Client:
    """The path of one client. It requests paths one after the other and records the results.

    ``opening`` gets the hops of the circuit that is being opened, by the index of the machine.
    """

    def __init__(
        self,
        recorder: Recorder,
        machine: Machine,
        rng: Random,
        *,
        hops: int,
        strategy: str,
        lifetime_s: float,
        opening: dict[int, tuple[NodeId, ...]],
    ) -> None:
        self.machine = machine
        self._recorder = recorder
        self._rng = rng
        self._hops = hops
        self._strategy = strategy
        self._lifetime_s = lifetime_s
        self._opening = opening
        self._path: RequestedPath | None = None
        self._first_circuit: int | None = None
        self._last_state: PathState | None = None
        self._lost_at = math.nan
        self._watched: list[tuple[float, frozenset[NodeId]]] = []

    def begin(self, after_s: float) -> None:
        """Schedule the first request."""
        heap = self._recorder.world.heap
        self.machine.all_cores()
        heap.at(heap.now + after_s + self._rng.uniform(0, _FIRST_REQUEST_S), self._request)

    @property
    def works(self) -> bool:
        """Whether the path is open and all its Mix-nodes are on line."""
        path = self._path
        if path is None or path.state is not PathState.OPEN or path.mix_path is None:
            return False
        world = self._recorder.world
        return all(world.is_online(_number(hop.node_id)) for hop in path.mix_path.hops)

    @property
    def table_numbers(self) -> set[int]:
        """The ids in the topology table that paths may be drawn from now."""
        cores = self.machine.cores
        if cores is None:
            return set()
        view = cores.table.view(self._recorder.world.heap.now)
        return {_number(descriptor.node_id) for descriptor in view}

    def left(self, node_id: NodeId) -> None:
        """Handle that a node went off line, because circuits through it end then."""
        now = self._recorder.world.heap.now
        for opened_at, hops in self._watched:
            if node_id in hops:
                self._recorder.add("circuit_lifetime_s", now - opened_at)
        self._watched = [one for one in self._watched if node_id not in one[1]]

    def _request(self, _one: object, _other: object) -> None:
        heap = self._recorder.world.heap
        cores = self.machine.all_cores()
        if cores is None:
            return
        try:
            terms = PathTerms(_DESTINATION, self._hops, self._strategy)
            [path] = cores.paths.open_paths([terms], heap.now)
        except (ConfigurationError, PluginError):
            raise  # there is no such strategy, or the strategy failed
        except OverlayError:
            self._finished(success=False)
            return
        self._path, self._first_circuit, self._last_state = path, path.circuit, path.state
        self.settled()  # colluding nodes must know the hops before the first packet is sent
        self.machine.flush()

    def _renew(self, path: RequestedPath, _: object) -> None:
        """Replace the path, because the client has used it for the time of the scenario."""
        cores = self.machine.cores
        if cores is None or path is not self._path:
            return
        now = self._recorder.world.heap.now
        cores.paths.close(path.number, now)
        self._path, self._lost_at = None, math.nan
        self._recorder.world.heap.at(now, self._request)
        self.machine.flush()

    def settled(self) -> None:
        """Follow the state of the path, after the cores have reacted to an event."""
        path = self._path
        opening = self._opening
        opening.pop(self.machine.index, None)
        if path is None:
            return
        if path.state is not PathState.OPEN and path.circuit is not None and path.mix_path:
            opening[self.machine.index] = tuple(hop.node_id for hop in path.mix_path.hops)
        if path.error is not None:
            self._path = None
            self._finished(success=False)
        elif path.state is not self._last_state:
            self._last_state = path.state
            if path.state is PathState.OPEN:
                self._opened(path)
            elif path.state is PathState.REBUILDING:
                self._lost_at = self._recorder.world.heap.now

    def _opened(self, path: RequestedPath) -> None:
        world, add = self._recorder.world, self._recorder.add
        now = world.heap.now
        if math.isnan(self._lost_at):
            add("path_first_try", float(path.circuit == self._first_circuit))
            add("path_setup_s", now - path.requested_at)
            self._finished(success=True)
            world.heap.at(now + self._lifetime_s, self._renew, path)
        else:
            add("path_rebuild_s", now - self._lost_at)
            self._lost_at = math.nan
        if path.mix_path is not None:
            hops = [hop.node_id for hop in path.mix_path.hops]
            self._watched.append((now, frozenset(hops)))
            ends = [world.by_number[_number(node_id)] for node_id in (hops[0], hops[-1])]
            add("path_compromised", float(not any(machine.honest for machine in ends)))

    def _finished(self, *, success: bool) -> None:
        world = self._recorder.world
        self._recorder.add("path_success", float(success))
        world.network.digest.note(world.heap.now, f"path {self.machine.index} {success:d}")
        if not success:
            self._recorder.add("path_first_try", 0.0)
            world.heap.at(world.heap.now + _RETRY_S, self._request)


class ScenarioClients(Clients):
    """The clients of a scenario: each machine of the population that is one."""

    def __init__(self, recorder: Recorder, settings: Circuits) -> None:
        world = recorder.world
        self._opening: dict[int, tuple[NodeId, ...]] = {}
        self._clients = [
            Client(
                recorder,
                machine,
                world.streams.stream("client", machine.index),
                hops=settings.hops,
                strategy=settings.strategy,
                lifetime_s=settings.lifetime_s,
                opening=self._opening,
            )
            for machine in world.machines
            if machine.is_client
        ]
        self._begun: dict[int, Client] = {}

    @property
    def watched(self) -> Sequence[Client]:
        """All clients."""
        return self._clients

    @property
    def opening(self) -> Mapping[int, Sequence[NodeId]]:
        """The hops of circuits that are being opened, by the index of the client's machine."""
        return self._opening

    def begin(self, after_s: float) -> None:
        """Schedule the first request of each client."""
        for client in self._clients:
            self._begun[client.machine.index] = client
            client.begin(after_s)

    def settled(self, machine: Machine) -> None:
        """Let the client of a machine follow its path."""
        client = self._begun.get(machine.index)
        if client is not None:
            client.settled()

    def left(self, machine: Machine) -> None:
        """Inform every client that a machine went off line."""
        for client in self._clients:
            client.left(machine.node_id)


def _number(node_id: NodeId) -> int:
    return int.from_bytes(node_id, "big")
