"""The settings of the DHT, with their units, ranges, defaults and sources.

Reasons: docs/decisions/0033.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DhtSettings"]


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """Settings of a node's contacts, lookups, records and crawls.

    Attributes:
        k: contacts in a bucket and holders of a record (Maymounkov and Mazieres 2002).
        alpha: requests of one lookup in flight. With a timeout of half a second, eight reduced
            a lookup among 30 % dead contacts from 25 s to 1.5 s.
        disjoint_paths: number of disjoint paths of a lookup. Only one of them asks a given
            node (S/Kademlia, Baumgart and Mies 2007).
        rpc_timeout_s: timeout for an endpoint whose round trip is not known.
        rpc_timeout_min_s, rpc_timeout_max_s: bounds of the timeout that follows from measured round
            trips (RFC 6298), and of its doubling from one attempt to the next.
        rpc_attempts: how often a request is sent before its node counts as silent.
        lookup_max_hops, lookup_max_queries, lookup_time_s: bounds of a lookup, which
            hold even if peers invent nodes.
        bucket_prefix_limit: contacts of one /24 or /48 in a bucket.
        table_prefix_limit: contacts of one /24 or /48 in the whole table, and those that one path
            of a lookup asks.
        limit_private_prefixes: apply both to private addresses as well.
        allow_private_endpoints: talk to private and loopback addresses (labs, private meshes).
        contact_max_failures: unanswered requests after which a contact is removed.
        liveness_interval_s: how long a contact is believed alive before it is asked again.
        refresh_interval_s: how long a bucket goes without a lookup.
        max_records: descriptors of other nodes that this node stores.
        max_records_per_source: of those, how many from one /24 or /48.
        identity_cost_bits: cost that the whole network requires of every identity: the leading zero
            bits of a hash, found by about 2 to that power of key pairs (S/Kademlia). Nodes
            with fewer are ignored. 0 accepts every identity; an open network should require 16.
        republish_interval_s: how often this node stores its own descriptor again.
        crawl_interval_s: pause between two crawls of the whole overlay.
        crawl_first_interval_s: the first pause between two crawls; it doubles up to that.
        crawl_queries_per_s: how many queries crawls send in the mean; after a larger one the
            pause is longer, as it is in overlays of more than 4,000 nodes.
        crawl_in_flight, crawl_max_nodes, crawl_prefix_limit, crawl_time_s: bounds of a crawl.
        bootstrap_retry_s, bootstrap_retry_max_s: first and longest pause between two
            attempts to join.
        seeds_per_round: remembered nodes that are asked at the same time.
        challenges_per_s: requests without a valid cookie that are answered with one, in all. One
            costs 15 microseconds with its answer. Requests above the limit cost only one check.
        requests_per_s: requests of one /24 or /48 that are verified.
        request_burst: how many more than that at once.

    Raises:
        ValueError: a value is out of range; the message is one sentence that names it.
    """

    k: int = 20
    alpha: int = 8
    disjoint_paths: int = 3
    rpc_timeout_s: float = 0.5
    rpc_timeout_min_s: float = 0.2
    rpc_timeout_max_s: float = 2.0
    rpc_attempts: int = 2
    lookup_max_hops: int = 16
    lookup_max_queries: int = 200
    lookup_time_s: float = 20.0
    bucket_prefix_limit: int = 2
    table_prefix_limit: int = 3
    limit_private_prefixes: bool = False
    allow_private_endpoints: bool = False
    contact_max_failures: int = 2
    liveness_interval_s: float = 60.0
    refresh_interval_s: float = 3600.0
    max_records: int = 4096
    max_records_per_source: int = 16
    identity_cost_bits: int = 0
    republish_interval_s: float = 3600.0
    crawl_interval_s: float = 600.0
    crawl_first_interval_s: float = 10.0
    crawl_queries_per_s: float = 20.0
    crawl_in_flight: int = 32
    crawl_max_nodes: int = 20_000
    crawl_prefix_limit: int = 32
    crawl_time_s: float = 300.0
    bootstrap_retry_s: float = 1.0
    bootstrap_retry_max_s: float = 60.0
    seeds_per_round: int = 16
    challenges_per_s: int = 5000
    requests_per_s: float = 50.0
    request_burst: int = 200

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value!r}.")
        if self.crawl_first_interval_s > self.crawl_interval_s:
            raise ValueError("crawl_first_interval_s must not exceed crawl_interval_s.")
        if not self.rpc_timeout_min_s <= self.rpc_timeout_s <= self.rpc_timeout_max_s:
            raise ValueError(
                "rpc_timeout_s must not exceed rpc_timeout_max_s, nor rpc_timeout_min_s exceed it."
            )
        if self.bootstrap_retry_s > self.bootstrap_retry_max_s:
            raise ValueError("bootstrap_retry_s must not exceed bootstrap_retry_max_s.")
        if self.disjoint_paths > self.alpha:
            raise ValueError(
                "disjoint_paths must not exceed alpha, for each path needs a request; set "
                f"disjoint_paths to at most {self.alpha} as well, or alpha to at least "
                f"{self.disjoint_paths}."
            )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("k", 1, 64),
    ("alpha", 1, 64),
    ("disjoint_paths", 1, 16),
    ("rpc_timeout_s", 0.05, 10),
    ("rpc_timeout_min_s", 0.01, 10),
    ("rpc_timeout_max_s", 0.05, 60),
    ("rpc_attempts", 1, 5),
    ("lookup_max_hops", 1, 64),
    ("lookup_max_queries", 1, 2000),
    ("lookup_time_s", 0.1, 300),
    ("bucket_prefix_limit", 1, 64),
    ("table_prefix_limit", 1, 1000),
    ("contact_max_failures", 1, 10),
    ("liveness_interval_s", 1, 86400),
    ("refresh_interval_s", 1, 86400),
    ("max_records", 1, 1_000_000),
    ("max_records_per_source", 1, 1_000_000),
    ("identity_cost_bits", 0, 32),
    ("republish_interval_s", 1, 86400),
    ("crawl_interval_s", 1, 86400),
    ("crawl_first_interval_s", 0.1, 86400),
    ("crawl_queries_per_s", 0.1, 10_000),
    ("crawl_in_flight", 1, 1024),
    ("crawl_max_nodes", 1, 1_000_000),
    ("crawl_prefix_limit", 1, 65536),
    ("crawl_time_s", 1, 3600),
    ("bootstrap_retry_s", 0.1, 3600),
    ("bootstrap_retry_max_s", 0.1, 86400),
    ("seeds_per_round", 1, 256),
    ("challenges_per_s", 1, 1_000_000),
    ("requests_per_s", 1, 1_000_000),
    ("request_burst", 1, 1_000_000),
)
