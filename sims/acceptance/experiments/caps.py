"""E14: an attacker with thousands of identities and one subnet."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import Endpoint
from overlay.dht.messages import Contact
from overlay.dht.routing import Table
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue
from sims.acceptance.experiments.ideal import as_id, contact_of, random_ids
from sims.world.engine.keyspace import ID_BITS

__all__ = ["E14"]

_SUBNETS: Final = ("203.0.114.0/24", "2a00:1111:2222::/48")
_SURROUND: Final = 3
"""One identity in three is near the victim's id, because the buckets there have free places."""


@dataclass(frozen=True, slots=True)
class Sybils(Settings):
    """E14: ``identities`` of one subnet, which prove key and endpoint, among honest nodes."""

    identities: int = setting(
        10_000, whole(1, 1_000_000), "Identities of one subnet that prove their key and endpoint."
    )
    honest: int = setting(300, whole(1, 100_000), "Honest nodes.")
    k: int = setting(20, whole(1, 64), "Contacts in a bucket.")
    per_bucket: int = setting(2, whole(1, 64), "Contacts of one subnet in a bucket.")
    per_table: int = setting(3, whole(1, 1000), "Contacts of one subnet in the table.")


def _measure(settings: Sybils, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    for number, subnet in enumerate(_SUBNETS, start=1):
        worst_bucket = worst_table = fewest = 0
        for seed in range(seeds):
            progress(f"E14: {settings.identities:,} identities in {subnet}, seed {seed + 1}")
            bucket, table, honest = _attack(settings, subnet, Random(f"E14 {subnet} {seed}"))
            worst_bucket, worst_table = max(worst_bucket, bucket), max(worst_table, table)
            fewest = honest if seed == 0 else min(fewest, honest)
        points += [
            CheckedValue("most in one bucket", number, worst_bucket, None, 0, settings.per_bucket),
            CheckedValue("most in the table", number, worst_table, None, 0, settings.per_table),
            CheckedValue("honest contacts left", number, fewest, None,
                  min(settings.k, settings.honest), math.inf),
        ]  # fmt: skip
    return Measurement(points, f"x: 1 {_SUBNETS[0]}, 2 {_SUBNETS[1]}; replacements are counted")


def _attack(settings: Sybils, subnet: str, rng: Random) -> tuple[int, int, int]:
    """Return the attacker's most places in a bucket and in a table, and the honest contacts."""
    own = rng.getrandbits(ID_BITS)
    table = Table(
        as_id(own),
        DhtSettings(
            k=settings.k,
            bucket_prefix_limit=settings.per_bucket,
            table_prefix_limit=settings.per_table,
        ),
        rng,
    )
    network = ipaddress.ip_network(subnet)
    arrivals = [contact_of(n, i) for i, n in enumerate(random_ids(settings.honest, rng))]
    arrivals += [_sybil(own, number, network, rng) for number in range(settings.identities)]
    rng.shuffle(arrivals)
    worst_bucket = worst_table = 0
    for contact in arrivals:
        table.seen(contact, 0.0)
        if ipaddress.ip_address(contact.endpoint.host) in network:
            counts = _counts(table, network)
            worst_bucket = max(worst_bucket, *counts.values(), 0)
            worst_table = max(worst_table, sum(counts.values()))
    honest = sum(ipaddress.ip_address(one.endpoint.host) not in network for one in table)
    return worst_bucket, worst_table, honest


def _counts(table: Table, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Counter[int]:
    """Return the attacker's places in each bucket, including the replacement cache."""
    family = "." if network.version == 4 else ":"
    counts: Counter[int] = Counter({-1: 0})
    for index, bucket in enumerate(table.buckets):
        for entry in bucket.entries():
            host = entry.contact.endpoint.host
            if family in host and _starts_with(host, network):
                counts[index] += 1
    return counts


def _starts_with(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return ipaddress.ip_address(host) in network


def _sybil(
    own: int, number: int, network: ipaddress.IPv4Network | ipaddress.IPv6Network, rng: Random
) -> Contact:
    node = rng.getrandbits(ID_BITS)
    if number % _SURROUND == 0:
        node = own ^ rng.getrandbits(rng.randrange(1, ID_BITS))
    host = network[rng.randrange(1, min(network.num_addresses, 1 << 60) - 1)]
    return Contact(as_id(node), Endpoint(str(host), rng.randrange(1024, 65536)), bytes(32))


E14 = Experiment(
    "E14",
    "Subnet caps against one subnet with thousands of identities",
    "never more than per_bucket in a bucket and per_table in the table, exactly",
    "1 IPv4 /24, 2 IPv6 /48",
    "contacts",
    Sybils(),
    Sybils(identities=4000),
    _measure,
)
