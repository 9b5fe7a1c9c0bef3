"""Declare every metric of a simulation: name, unit, kind and meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["GROUPS", "METRICS", "Metric", "metric_of", "needs_adversary"]

Kind = Literal["yes-no", "distribution", "series"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity.

    Attributes:
        name: as in observations, expectations and files.
        unit: of a value; empty for counts and for shares from 0 to 1.
        kind: ``yes-no`` (1.0 or 0.0 for each event; the mean is a rate), ``distribution``
            (a value for each event) or ``series`` (the state of the overlay, sampled).
        group: chapter of the report.
        meaning: one sentence for the reader of a report.
    """

    name: str
    unit: str
    kind: Kind
    group: str
    meaning: str

    @property
    def counts(self) -> bool:
        """Whether every value is a whole number."""
        return self.name in ("lookup_hops", "lookup_queries")

    @property
    def title(self) -> str:
        """The name for an axis or a heading, with the unit in brackets."""
        words = self.name.removesuffix("_s") if self.unit else self.name
        for short, long in (("_", " "), ("mtt ", "MTT "), (" per node", " per node")):
            words = words.replace(short, long)
        words = words.removesuffix(" km").removesuffix(" per hour")
        unit = self.unit or ("share" if self.highest == 1 else "")
        title = words[:1].upper() + words[1:]
        return f"{title} ({unit})" if unit else title

    @property
    def highest(self) -> float:
        """The largest possible value: 1 for rates and fractions, else infinity."""
        return 1.0 if self.kind == "yes-no" or self.name in _SHARES else math.inf


_SHARES: Final = frozenset(
    (
        "lookup_closest_share",
        "lookup_dead_share",
        "mtt_coverage",
        "mtt_overlap",
        "mtt_staleness",
        "neighbours_known",
        "online_share",
        "path_available",
        "record_survival",
        "table_stale_share",
    )
)

_LOOKUPS: Final = "Lookups"
_TRAFFIC: Final = "Traffic"
_TABLES: Final = "Routing tables"
_RECORDS: Final = "Records"
_TOPOLOGY: Final = "Mix-nodes Topology Table"
_PATHS: Final = "Anonymous paths"
_COMING: Final = "Joining and recovery"
_CHURN: Final = "Churn"
_ADVERSARY: Final = "Adversary"

_ALL: Final = (
    Metric("lookup_success", "", "yes-no", _LOOKUPS,
           "Did a lookup of a live, published record return it, verified?"),
    Metric("lookup_hops", "", "distribution", _LOOKUPS,
           "Hops from the source to the node that answered."),
    Metric("lookup_latency_s", "s", "distribution", _LOOKUPS,
           "From the start of a lookup to its result."),
    Metric("lookup_queries", "", "distribution", _LOOKUPS, "Requests that one lookup sent."),
    Metric("lookup_closest_share", "", "distribution", _LOOKUPS,
           "Share of the truly k closest live nodes that a lookup found."),
    Metric("lookup_dead_share", "", "distribution", _LOOKUPS,
           "Share of dead nodes in a lookup's result."),
    Metric("messages_per_node_s", "1/s", "series", _TRAFFIC,
           "Control datagrams that an on-line node sends in a second."),
    Metric("bytes_per_node_s", "B/s", "series", _TRAFFIC,
           "UDP payload of control traffic that an on-line node sends in a second."),
    Metric("table_contacts", "", "series", _TABLES, "Contacts in a routing table."),
    Metric("table_stale_share", "", "series", _TABLES,
           "Share of a table's contacts that are dead."),
    Metric("bucket_fill", "", "series", _TABLES,
           "Contacts in one bucket; the label names the bucket's shared prefix length."),
    Metric("neighbours_known", "", "series", _TABLES,
           "Share of its k closest live nodes that a node has in its table."),
    Metric("record_survival", "", "series", _RECORDS,
           "Share of published records that still have a live holder."),
    Metric("record_holders", "", "series", _RECORDS, "Live holders of a published record."),
    Metric("mtt_coverage", "", "series", _TOPOLOGY,
           "Share of the live relays that a node's table holds."),
    Metric("mtt_staleness", "", "series", _TOPOLOGY, "Share of a table's relays that are dead."),
    Metric("mtt_adversary_ratio", "", "series", _TOPOLOGY,
           "The adversary's share of a table over its share of the overlay; 1 is fair."),
    Metric("mtt_overlap", "", "series", _TOPOLOGY,
           "Jaccard overlap of two clients' tables; little overlap makes clients recognisable."),
    Metric("path_first_try", "", "yes-no", _PATHS, "Did the first attempt at a path succeed?"),
    Metric("path_success", "", "yes-no", _PATHS, "Did a request for a path end with a path?"),
    Metric("path_setup_s", "s", "distribution", _PATHS, "From the request to a usable path."),
    Metric("circuit_lifetime_s", "s", "distribution", _PATHS,
           "From a circuit's confirmation until the first of its relays left."),
    Metric("path_rebuild_s", "s", "distribution", _PATHS,
           "From the loss of a circuit until the path worked again."),
    Metric("path_available", "", "series", _PATHS,
           "Share of clients that have a working circuit."),
    Metric("path_compromised", "", "yes-no", _PATHS,
           "Were a circuit's first and last relay both the adversary's?"),
    Metric("join_success", "", "yes-no", _COMING, "Did a node that started become a member?"),
    Metric("join_s", "s", "distribution", _COMING,
           "From the start of a node until it is a member of the overlay."),
    Metric("recovery_s", "s", "distribution", _COMING,
           "From the disturbance (of a partition: its end) until lookups succeed again as often "
           "as before; if they never do, until the end of the run."),
    Metric("recovered", "", "yes-no", _COMING,
           "Did lookups succeed again as often as before, in the run's time?"),
    Metric("online_nodes", "", "series", _CHURN, "Nodes that are on-line."),
    Metric("online_share", "", "series", _CHURN, "Share of all nodes that are on-line."),
    Metric("session_on_s", "s", "distribution", _CHURN,
           "On-time of a session that began and ended within the run."),
    Metric("session_km_s", "s", "distribution", _CHURN,
           "On-time of a session that began within the run, by Kaplan and Meier's estimate, which "
           "counts sessions that outlast the run as well."),
    Metric("session_cut_s", "s", "distribution", _CHURN,
           "Age at the end of the run of a session that began within it and goes on."),
    Metric("session_off_s", "s", "distribution", _CHURN,
           "Off-time between two sessions within the run."),
    Metric("joins_per_hour", "1/h", "series", _CHURN, "Nodes that come on-line in an hour."),
    Metric("leaves_per_hour", "1/h", "series", _CHURN, "Nodes that go off-line in an hour."),
    Metric("forged_accepted", "", "yes-no", _ADVERSARY,
           "Did a lookup accept a forged record?"),
    Metric("replayed_accepted", "", "yes-no", _ADVERSARY,
           "Did a lookup return an old record though a newer one was published?"),
    Metric("eclipse_alarm", "", "yes-no", _LOOKUPS,
           "Did the eclipse alarm of a lookup sound: of the eclipsed key (target), of keys so near "
           "to it that the crowd is among their nearest (beside), of all others?"),
    Metric("eclipse_success", "", "yes-no", _ADVERSARY,
           "Were all k nodes that a lookup of the target found the adversary's?"),
    Metric("table_sybils_max", "", "series", _ADVERSARY,
           "The most contacts of the adversary's subnet in any honest node's table."),
    Metric("bucket_sybils_max", "", "series", _ADVERSARY,
           "The most contacts of the adversary's subnet in any bucket of an honest node."),
)  # fmt: skip


def needs_adversary(name: str) -> bool:
    """Tell whether a metric only exists in scenarios with an adversary."""
    return METRICS[name].group == _ADVERSARY if name in METRICS else False


GROUPS: Final = (
    _PATHS, _LOOKUPS, _ADVERSARY, _COMING, _TOPOLOGY, _RECORDS, _TABLES, _TRAFFIC, _CHURN, "Other",
)  # fmt: skip
"""Chapters of a report. Those about paths come first, because most readers look for them."""

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _ALL}
"""Every metric by its name, in the order of the chapters."""


def metric_of(name: str) -> Metric:
    """Return the description of a metric; an unknown name gets one made of the name itself."""
    known = METRICS.get(name)
    return known or Metric(name, "s" if name.endswith("_s") else "", "distribution", "Other", "")
