"""E12: malicious nodes answer requests for records with forged, expired or old records."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.crawl import Crawl
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.lookup import Query
from overlay.dht.messages import Contacts, FindRecord, Record, Reply
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordCheck, RecordStore, verified_record
from overlay.dht.topology_table import TopologyTable
from overlay.identity import LocalIdentity
from overlay.settings import Settings, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, exactly
from sims.acceptance.experiments.ideal import IdealOverlay, as_id, contact_of

__all__ = ["E12"]

_NETWORK: Final = "acceptance"
_NOW: Final = 1_800_000_000.0
_HOLDERS_ASKED: Final = 3
"""A crawl asks three holders for the record of a node that does not answer."""

_MOST_AMISS: Final = 0.9
_ENOUGH: Final = 10
"""If silent nodes times the malicious fraction exceed this, some crawl must get a false answer."""


@dataclass(frozen=True, slots=True)
class Poison(Settings):
    """E12: ``nodes`` with records at their k nearest; one fraction lies, another is silent.

    A crawl asks holders for the records of silent nodes. Only there can a malicious node answer
    for another node.
    """

    nodes: int = setting(600, whole(50, 100_000), "Number of nodes.")
    k: int = setting(20, whole(_HOLDERS_ASKED, 64), "Contacts in a bucket and holders of a record.")
    malicious: float = setting(0.2, number(0, 0.8), "Fraction of nodes that return false records.")
    silent: float = setting(0.2, number(0, 0.8), "Fraction of nodes that do not answer.")
    availability: float = setting(
        0.99, number(0, 1), "Least permitted fraction of lookups that find the record."
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        if self.malicious + self.silent > _MOST_AMISS:
            raise ValueError(f"malicious and silent add up to {_MOST_AMISS} at the most")


@dataclass(slots=True)
class _Overlay:
    """The honest, malicious and silent nodes, and the records that each node stores."""

    tables: IdealOverlay
    records: dict[NodeId, dict[str, bytes]]
    stores: dict[NodeId, RecordStore]
    liars: set[NodeId] = field(default_factory=set)
    silent: set[NodeId] = field(default_factory=set)


def _measure(settings: Poison, seeds: int, progress: Progress) -> Measurement:
    poisoned = regressed = believed = silent_found = living_found = living = lies = 0
    for seed in range(seeds):
        progress(f"E12: {settings.malicious:.0%} of {settings.nodes} nodes lie, seed {seed + 1}")
        rng = Random(f"E12 {seed}")
        overlay = _build(settings, rng)
        crawler = rng.choice(sorted(overlay.records))
        veteran, newcomer = TopologyTable(), TopologyTable()
        _crawl(overlay, crawler, veteran, settings, rng)
        everybody = sorted(set(overlay.records) - {crawler})
        known = {one for one in everybody if veteran.get(one) is not None}
        overlay.liars = set(rng.sample(everybody, round(settings.malicious * settings.nodes)))
        honest = sorted(set(everybody) - overlay.liars)
        overlay.silent = set(rng.sample(honest, round(settings.silent * settings.nodes)))
        lies += _crawl(overlay, crawler, veteran, settings, rng)
        _crawl(overlay, crawler, newcomer, settings, rng)
        for node_id in everybody:
            allowed = overlay.records[node_id]
            for table in (veteran, newcomer):
                got = table.get(node_id)
                poisoned += got is not None and got.encoded not in (
                    allowed["current"], allowed["old"],
                )  # fmt: skip
            regressed += node_id in known and _holds(veteran, node_id, allowed["old"])
            believed += _holds(newcomer, node_id, allowed["old"])
            silent_found += node_id in overlay.silent and newcomer.get(node_id) is not None
            if node_id not in overlay.silent and node_id not in overlay.liars:
                living += 1
                living_found += _holds(newcomer, node_id, allowed["current"])
    asked = max(1, silent_found)
    # Silent nodes do not answer, so the malicious fraction of answering nodes is larger.
    fooled = (settings.malicious / (1 - settings.silent)) ** _HOLDERS_ASKED
    error = math.sqrt(fooled * (1 - fooled) / asked)
    # A malicious node can only answer for another node if it holds a silent node's record.
    least_lies = 1 if settings.malicious * silent_found >= _ENOUGH else 0
    points = [
        exactly("forged or expired records accepted", 1, poisoned, 0),
        exactly("records replaced by older ones", 2, regressed, 0),
        CheckedValue("availability of living nodes", 3, living_found / living, None,
              settings.availability, 1.0),
        CheckedValue("silent nodes whose old record a new node accepts", 4, believed / asked,
              fooled, 0.0, fooled + 3 * error, error),
        CheckedValue("false answers", 5, lies, None, least_lies, math.inf),
    ]  # fmt: skip
    return Measurement(
        points,
        "a new node accepts an old record if its three holders are malicious; g: their fraction",
    )


def _holds(table: TopologyTable, node_id: NodeId, record: bytes) -> bool:
    got = table.get(node_id)
    return got is not None and got.encoded == record


def _build(settings: Poison, rng: Random) -> _Overlay:
    identities = [LocalIdentity.generate(rng) for _ in range(settings.nodes)]
    numbers = [int.from_bytes(identity.node_id, "big") for identity in identities]
    dht = DhtSettings(k=settings.k)
    tables = IdealOverlay(numbers, dht, rng)
    records: dict[NodeId, dict[str, bytes]] = {}
    stores = {
        identity.node_id: RecordStore(identity.node_id, _NETWORK, dht) for identity in identities
    }
    for index, (identity, key) in enumerate(zip(identities, numbers, strict=True)):
        records[identity.node_id] = _records(identity, key, index)
        for holder in tables.keys.closest(key, settings.k + 1):
            if holder != key:
                current = records[identity.node_id]["current"]
                source = index.to_bytes(4, "big")
                store = stores[as_id(holder)]
                store.put(identity.node_id, current, source, _NOW, responsible=True)
    return _Overlay(tables, records, stores)


def _records(identity: LocalIdentity, number: int, index: int) -> dict[str, bytes]:
    """Return a node's current record, an older valid one and a newer expired one."""

    def signed(sequence: int, valid_from: float, expires: float) -> bytes:
        return sign_descriptor(
            identity,
            network_id=_NETWORK,
            onion_keys=(OnionKey(1, identity.onion_key),),
            esp_suites=(3,),
            endpoints=(contact_of(number, index).endpoint,),
            roles={Role.RELAY},
            exit_policy=None,
            bandwidth_kbit=1000,
            sequence=sequence,
            valid_from=int(valid_from),
            expires=int(expires),
        ).encoded

    return {
        "current": signed(5, _NOW - 60, _NOW + 7200),
        "old": signed(4, _NOW - 120, _NOW + 7200),
        "expired": signed(6, _NOW - 7200, _NOW - 1),
    }


def _crawl(
    overlay: _Overlay, own: NodeId, table: TopologyTable, settings: Poison, rng: Random
) -> int:
    """Run the product's crawl into a topology table; return the number of false answers."""
    lies = 0
    start = overlay.tables.table(int.from_bytes(own, "big"))
    check = RecordCheck(verified_record, _NETWORK, cost_bits=0)
    crawl = Crawl(own, start, DhtSettings(k=settings.k), verify=check, rng=rng, now=_NOW)
    pending: deque[Query] = deque(crawl.queries(_NOW))
    while pending:
        query = pending.popleft()
        if query.contact.node_id in overlay.silent:
            crawl.failed(query)
        else:
            reply, is_lie = _reply(overlay, query, settings.k, rng)
            lies += is_lie
            for found in crawl.answered(query, reply, _NOW):
                table.add(found.descriptor, _NOW)
        pending.extend(crawl.queries(_NOW))
    return lies


def _reply(overlay: _Overlay, query: Query, k: int, rng: Random) -> tuple[Reply, bool]:
    """Answer as a node does. A malicious node answers falsely about all records of others."""
    own = query.contact.node_id
    request = query.request
    if isinstance(request, FindRecord):
        if request.key == own:
            return Record(overlay.records[own]["current"]), False
        if own in overlay.liars:
            return Record(rng.choice(_LIES)(overlay, own, request.key)), True
        record = overlay.stores[own].get(request.key, _NOW)
        if record is not None:
            return Record(record), False
    target = getattr(request, "key", None) or getattr(request, "target")  # noqa: B009 - FIND_*
    nearest = overlay.tables.table(int.from_bytes(own, "big")).closest(target, k, alive=True)
    return Contacts(tuple(nearest)), False


def _another_owners(overlay: _Overlay, own: NodeId, key: NodeId) -> bytes:  # noqa: ARG001 - a lie
    return overlay.records[own]["current"]


def _tampered(overlay: _Overlay, own: NodeId, key: NodeId) -> bytes:  # noqa: ARG001 - a lie
    record = bytearray(overlay.records[key]["current"])
    record[len(record) // 2] ^= 1
    return bytes(record)


def _expired(overlay: _Overlay, own: NodeId, key: NodeId) -> bytes:  # noqa: ARG001 - a lie
    return overlay.records[key]["expired"]


def _old(overlay: _Overlay, own: NodeId, key: NodeId) -> bytes:  # noqa: ARG001 - a lie
    return overlay.records[key]["old"]


_LIES: Final[tuple[Callable[[_Overlay, NodeId, NodeId], bytes], ...]] = (
    _another_owners,
    _tampered,
    _expired,
    _old,
    _old,
)


E12 = Experiment(
    "E12",
    "Poisoned records",
    "forged, expired, regressed: 0 exactly; availability >= 0.99; accepted <= g^3",
    "1 poisoned, 2 regressed, 3 availability, 4 old records accepted, 5 false answers",
    "count or share",
    Poison(),
    Poison(nodes=250),
    _measure,
)
