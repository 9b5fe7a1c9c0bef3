"""Every tunable of the DHT, declared once: unit in the name, range checked, source beside it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DhtSettings"]


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """How one node keeps its contacts, looks up, stores and crawls.

    Raises:
        ValueError: a value is out of range; the message is one sentence that names it.
    """

    # Kademlia's own two (Maymounkov and Mazieres 2002). Eight requests in flight and half a
    # second of patience brought a lookup with 30 % dead contacts from 25 s down to 1.5 s.
    k: int = 20
    alpha: int = 8
    # S/Kademlia (Baumgart and Mies 2007): a node is asked by one path only.
    disjoint_paths: int = 3
    rpc_timeout_s: float = 0.5
    rpc_attempts: int = 2
    lookup_max_hops: int = 16
    lookup_max_queries: int = 200
    lookup_time_s: float = 20.0

    # The routing table. Subnets are /24 (IPv4) and /48 (IPv6), as go-libp2p and py-libp2p cap them.
    bucket_subnet_limit: int = 2
    table_subnet_limit: int = 3
    limit_private_subnets: bool = False
    allow_private_endpoints: bool = False
    contact_max_failures: int = 2
    liveness_interval_s: float = 60.0
    refresh_interval_s: float = 3600.0

    # Storage of other nodes' descriptors.
    max_records: int = 4096
    max_records_per_source: int = 16
    republish_interval_s: float = 3600.0

    # The crawl that fills the Mix-nodes Topology Table.
    crawl_interval_s: float = 600.0
    crawl_first_interval_s: float = 10.0
    crawl_in_flight: int = 32
    crawl_max_nodes: int = 20_000
    crawl_subnet_limit: int = 32
    crawl_time_s: float = 300.0

    # Joining.
    bootstrap_retry_s: float = 1.0
    bootstrap_retry_max_s: float = 60.0
    seeds_per_round: int = 16

    # What one source (/24 or /48) may make us verify.
    requests_per_s: float = 50.0
    request_burst: int = 200

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value!r}.")
        if self.crawl_first_interval_s > self.crawl_interval_s:
            raise ValueError("crawl_first_interval_s must not exceed crawl_interval_s.")
        if self.bootstrap_retry_s > self.bootstrap_retry_max_s:
            raise ValueError("bootstrap_retry_s must not exceed bootstrap_retry_max_s.")
        if self.disjoint_paths > self.alpha:
            raise ValueError("disjoint_paths must not exceed alpha: each path needs a request.")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("k", 1, 64),
    ("alpha", 1, 64),
    ("disjoint_paths", 1, 16),
    ("rpc_timeout_s", 0.05, 10),
    ("rpc_attempts", 1, 5),
    ("lookup_max_hops", 1, 64),
    ("lookup_max_queries", 1, 2000),
    ("lookup_time_s", 0.1, 300),
    ("bucket_subnet_limit", 1, 64),
    ("table_subnet_limit", 1, 1000),
    ("contact_max_failures", 1, 10),
    ("liveness_interval_s", 1, 86400),
    ("refresh_interval_s", 1, 86400),
    ("max_records", 1, 1_000_000),
    ("max_records_per_source", 1, 1_000_000),
    ("republish_interval_s", 1, 86400),
    ("crawl_interval_s", 1, 86400),
    ("crawl_first_interval_s", 0.1, 86400),
    ("crawl_in_flight", 1, 1024),
    ("crawl_max_nodes", 1, 1_000_000),
    ("crawl_subnet_limit", 1, 65536),
    ("crawl_time_s", 1, 3600),
    ("bootstrap_retry_s", 0.1, 3600),
    ("bootstrap_retry_max_s", 0.1, 86400),
    ("seeds_per_round", 1, 256),
    ("requests_per_s", 1, 1_000_000),
    ("request_burst", 1, 1_000_000),
)
