"""Run the prober as a process: the product's DHT core on a real socket."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import SystemRandom

import trio

from lab.churn.probing import Probing
from lab.churn.script import NETWORK_ID, ChurnScript, endpoint_of
from overlay.addresses import NodeId
from overlay.clock import Clock
from overlay.demultiplexer import Channel, demultiplex, frame
from overlay.dht.core import Dht
from overlay.dht.inspection import DhtInspection
from overlay.identity import LocalIdentity
from overlay.system.udp import UdpSocket

__all__ = ["run_prober"]


def run_prober(script: ChurnScript, ids: list[NodeId], began_at: float, results: Path) -> int:
    """Take part in the overlay until the script ends; then write the results of the lookups.

    Args:
        script: the script.
        ids: every node's id, by number.
        began_at: ``time.monotonic()`` at the script's beginning.
        results: file for a JSON list, with true for each lookup that found its record.
    """
    trio.run(_Prober(script, ids, began_at, results).run)
    return 0


class _Prober:
    def __init__(
        self, script: ChurnScript, ids: list[NodeId], began_at: float, results: Path
    ) -> None:
        self._script = script
        self._began_at = began_at
        self._results = results
        rng = SystemRandom()
        self._probing = Probing(script, ids, rng)
        identity = LocalIdentity.generate(rng)
        endpoint = endpoint_of(script.prober)
        self._dht = Dht(
            identity,
            network_id=NETWORK_ID,
            settings=script.timing.dht_settings(),
            rng=rng,
            endpoints=(endpoint,),
        )
        DhtInspection(self._dht).disable_crawls()
        self._socket = UdpSocket.open(endpoint)
        self._changed = trio.Event()

    async def run(self) -> None:
        self._clock = Clock.system()
        self._dht.bootstrap([endpoint_of(self._script.bootstrap)], self._clock.now())
        self._flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._wake)
            await self._probe()
            nursery.cancel_scope.cancel()
        self._results.write_text(json.dumps(self._probing.results), encoding="utf-8")

    def _flush(self) -> None:
        now = self._clock.now()
        self._dht.events()
        self._socket.send_batch(
            [(frame(Channel.DHT, data), to) for data, to in self._dht.datagrams_to_send(now)]
        )
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _receive(self) -> None:
        while True:
            batch = await self._socket.receive_batch()
            self._dht.receive(demultiplex(batch).dht, self._clock.now())
            self._flush()

    async def _wake(self) -> None:
        while True:
            changed = self._changed
            with trio.move_on_at(self._clock.to_trio(self._dht.next_deadline())):
                await changed.wait()
            if self._dht.next_deadline() <= self._clock.now():
                self._dht.handle_deadline(self._clock.now())
                self._flush()

    async def _probe(self) -> None:
        timing = self._script.timing
        when = timing.warm_up_s
        while when < timing.end_s:
            await trio.sleep(max(0.0, self._began_at + when - time.monotonic()))
            self._probing.ask(self._dht, when, self._clock.now())
            self._flush()
            when += timing.probe_interval_s
        await trio.sleep(2.0)  # the last ones may still be under way
