"""The settings of the DHT.

Reasons: docs/decisions/0033.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.settings import FLAG, Settings, follows, number, seconds, setting, whole

__all__ = ["DhtSettings"]


@dataclass(frozen=True, slots=True)
class DhtSettings(Settings):
    """Settings of a node's contacts, lookups, records and crawls."""

    k: int = setting(
        20,
        whole(1, 64),
        "Contacts in a bucket and holders of a record (Kademlia, 2002).",
    )
    alpha: int = setting(
        # With a timeout of half a second, eight reduced a lookup among 30 % dead contacts from
        # 25 s to 1.5 s.
        8,
        whole(1, 64),
        "Requests of one lookup in flight.",
    )
    disjoint_paths: int = setting(
        3,
        whole(1, 16),
        "Number of disjoint paths of a lookup. Only one of them asks a given node (S/Kademlia, "
        "Baumgart and Mies 2007).",
    )
    rpc_timeout_s: float = setting(
        0.5, seconds(0.05, 10), "Timeout for an endpoint whose round trip is not known."
    )
    rpc_timeout_min_s: float = setting(
        0.2,
        seconds(0.01, 10),
        "Least timeout, also if measured round trips (RFC 6298) are shorter.",
    )
    rpc_timeout_max_s: float = setting(
        2.0,
        seconds(0.05, 60),
        "Largest timeout. Each further attempt has twice the timeout of the one before, up to it.",
    )
    rpc_attempts: int = setting(
        2, whole(1, 5), "How often a request is sent before its node counts as silent."
    )
    lookup_max_hops: int = setting(
        16, whole(1, 64), "Most hops of a lookup; it holds even if peers invent nodes."
    )
    lookup_max_queries: int = setting(200, whole(1, 2000), "Most requests of a lookup.")
    lookup_time_s: float = setting(20.0, seconds(0.1, 300), "Longest time of a lookup.")
    bucket_prefix_limit: int = setting(2, whole(1, 64), "Contacts of one /24 or /48 in a bucket.")
    table_prefix_limit: int = setting(
        3,
        whole(1, 1000),
        "Contacts of one /24 or /48 in the whole table, and those that one path of a lookup asks.",
    )
    limit_private_prefixes: bool = setting(
        False, FLAG, "Apply both limits of prefixes to private addresses as well."
    )
    allow_private_endpoints: bool = follows("network", False, FLAG)
    contact_max_failures: int = setting(
        2, whole(1, 10), "Unanswered requests after which a contact is removed."
    )
    liveness_interval_s: float = setting(
        60.0,
        seconds(1, 86_400),
        "Time after an answer until a contact is asked again whether it is alive.",
    )
    refresh_interval_s: float = setting(
        3600.0, seconds(1, 86_400), "Time without a lookup after which a bucket gets one."
    )
    max_records: int = setting(
        4096, whole(1, 1_000_000), "Descriptors of other nodes that this node stores."
    )
    max_records_per_source: int = setting(
        16, whole(1, 1_000_000), "Of these descriptors, how many from one /24 or /48."
    )
    identity_cost_bits: int = setting(
        0,
        whole(0, 32),
        "Cost that the whole network requires of every identity: leading zero bits of a hash. "
        "Finding them takes about 2 to that power of key pairs (16: some seconds, 20: a minute; "
        "S/Kademlia). Nodes with fewer are ignored. 0 accepts every identity; an open network "
        "should require 16.",
    )
    republish_interval_s: float = setting(
        3600.0, seconds(1, 86_400), "Time after which this node stores its own descriptor again."
    )
    crawl_interval_s: float = setting(
        600.0, seconds(1, 86_400), "Pause between two crawls of the whole overlay."
    )
    crawl_first_interval_s: float = setting(
        10.0,
        seconds(0.1, 86_400),
        "First pause between two crawls; it doubles each time, up to crawl_interval_s.",
    )
    crawl_queries_per_s: float = setting(
        20.0,
        number(0.1, 10_000, "queries per second"),
        "Mean rate of the queries of crawls. After a crawl of an overlay of more than 4,000 nodes "
        "the pause is longer for it.",
    )
    crawl_in_flight: int = setting(32, whole(1, 1024), "Requests of a crawl in flight.")
    crawl_max_nodes: int = setting(20_000, whole(1, 1_000_000), "Most nodes that a crawl asks.")
    crawl_prefix_limit: int = setting(
        32, whole(1, 65_536), "Nodes of one /24 or /48 that a crawl asks."
    )
    crawl_time_s: float = setting(300.0, seconds(1, 3600), "Longest time of a crawl.")
    bootstrap_retry_s: float = setting(
        1.0, seconds(0.1, 3600), "First pause between two attempts to join; it doubles each time."
    )
    bootstrap_retry_max_s: float = setting(
        60.0, seconds(0.1, 86_400), "Longest pause between two attempts to join."
    )
    seeds_per_round: int = setting(
        16, whole(1, 256), "Remembered nodes that are asked at the same time."
    )
    challenges_per_s: int = setting(
        5000,
        whole(1, 1_000_000, "requests per second"),
        "Requests without a valid cookie that are answered with one, in all. One costs 15 "
        "microseconds with its answer; a request above the limit costs only one check.",
    )
    requests_per_s: float = setting(
        50.0,
        number(1, 1_000_000, "requests per second"),
        "Requests of one /24 or /48 that are verified.",
    )
    request_burst: int = setting(
        200, whole(1, 1_000_000), "Requests of one /24 or /48 beyond requests_per_s at once."
    )

    def check(self) -> None:
        """Check timeouts, intervals and numbers that limit each other."""
        if self.crawl_first_interval_s > self.crawl_interval_s:
            raise ValueError("crawl_first_interval_s must not exceed crawl_interval_s")
        if not self.rpc_timeout_min_s <= self.rpc_timeout_s <= self.rpc_timeout_max_s:
            raise ValueError(
                "rpc_timeout_s must not exceed rpc_timeout_max_s, nor rpc_timeout_min_s exceed it"
            )
        if self.bootstrap_retry_s > self.bootstrap_retry_max_s:
            raise ValueError("bootstrap_retry_s must not exceed bootstrap_retry_max_s")
        if self.disjoint_paths > self.alpha:
            raise ValueError(
                "disjoint_paths must not exceed alpha, for each path needs a request; set "
                f"disjoint_paths to at most {self.alpha} as well, or alpha to at least "
                f"{self.disjoint_paths}"
            )
