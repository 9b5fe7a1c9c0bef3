"""Declare every metric of a simulation: name, unit, kind and meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["DEEPEST_BUCKET", "GROUPS", "METRICS", "Metric", "metric_of", "needs_adversary"]

DEEPEST_BUCKET: Final = 24
"""Number of buckets that are measured, from that of the farthest nodes."""

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
        meaning: one to three sentences for the reader of a report.
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
           "Whether a lookup returned a published record that an on-line node held, and the "
           "record verified."),
    Metric("lookup_hops", "", "distribution", _LOOKUPS,
           "Hops from the node that started a lookup to the node that answered it."),
    Metric("lookup_latency_s", "s", "distribution", _LOOKUPS,
           "Time from the start of a lookup to its result."),
    Metric("lookup_queries", "", "distribution", _LOOKUPS,
           "Requests that one lookup sent."),
    Metric("lookup_closest_share", "", "distribution", _LOOKUPS,
           "Share of the k on-line nodes closest to the target that a lookup found."),
    Metric("lookup_dead_share", "", "distribution", _LOOKUPS,
           "Share of departed nodes in the result of a lookup."),
    Metric("messages_per_node_s", "1/s", "series", _TRAFFIC,
           "Control datagrams that an on-line node sends per second."),
    Metric("bytes_per_node_s", "B/s", "series", _TRAFFIC,
           "UDP payload of control datagrams that an on-line node sends per second."),
    Metric("table_contacts", "", "series", _TABLES,
           "Contacts in a routing table."),
    Metric("table_stale_share", "", "series", _TABLES,
           "Share of the contacts of a routing table that have departed."),
    Metric("bucket_fill", "", "series", _TABLES,
           "Contacts in one bucket. The label is the length of the prefix that the bucket "
           "shares."),
    Metric("neighbours_known", "", "series", _TABLES,
           "Share of the k on-line nodes closest to a node that its routing table holds."),
    Metric("record_survival", "", "series", _RECORDS,
           "Share of published records that at least one on-line node holds."),
    Metric("record_holders", "", "series", _RECORDS,
           "On-line nodes that hold a published record."),
    Metric("mtt_coverage", "", "series", _TOPOLOGY,
           "Share of the on-line relays that the topology table of a client holds."),
    Metric("mtt_staleness", "", "series", _TOPOLOGY,
           "Share of the relays in a client's topology table that have departed."),
    Metric("mtt_adversary_ratio", "", "series", _TOPOLOGY,
           "The adversary's share of a client's topology table, divided by its share of the "
           "overlay. A fair table has 1."),
    Metric("mtt_overlap", "", "series", _TOPOLOGY,
           "Jaccard overlap of the topology tables of two clients. A small overlap makes "
           "clients easier to recognise."),
    Metric("path_first_try", "", "yes-no", _PATHS,
           "Whether the first attempt to build a path succeeded."),
    Metric("path_success", "", "yes-no", _PATHS,
           "Whether a request for a path led to a path."),
    Metric("path_setup_s", "s", "distribution", _PATHS,
           "Time from the request for a path until it is usable."),
    Metric("circuit_lifetime_s", "s", "distribution", _PATHS,
           "Time from the confirmation of a circuit until the first of its relays left."),
    Metric("path_rebuild_s", "s", "distribution", _PATHS,
           "Time from the loss of a circuit until the path worked again."),
    Metric("path_available", "", "series", _PATHS,
           "Share of clients that have a working circuit."),
    Metric("path_compromised", "", "yes-no", _PATHS,
           "Whether the adversary held both the first and the last relay of a circuit."),
    Metric("join_success", "", "yes-no", _COMING,
           "Whether a node that started became a member of the overlay."),
    Metric("join_s", "s", "distribution", _COMING,
           "Time from the start of a node until it is a member of the overlay."),
    Metric("recovery_s", "s", "distribution", _COMING,
           "Time from the disturbance until lookups succeed as often as before it. The time of "
           "a partition counts from its end. If lookups do not recover, the time ends with the "
           "run."),
    Metric("recovered", "", "yes-no", _COMING,
           "Whether lookups succeeded as often as before the disturbance, before the run "
           "ended."),
    Metric("online_nodes", "", "series", _CHURN,
           "Nodes that are on line."),
    Metric("online_share", "", "series", _CHURN,
           "Share of all nodes that are on line."),
    Metric("session_on_s", "s", "distribution", _CHURN,
           "Length of a session that began and ended within the run."),
    Metric("session_km_s", "s", "distribution", _CHURN,
           "Length of a session that began within the run, by the estimate of Kaplan and "
           "Meier. It includes sessions that outlast the run."),
    Metric("session_cut_s", "s", "distribution", _CHURN,
           "Age, at the end of the run, of a session that began within the run and has not "
           "ended."),
    Metric("session_off_s", "s", "distribution", _CHURN,
           "Absence between two sessions within the run."),
    Metric("joins_per_hour", "1/h", "series", _CHURN,
           "Nodes that go on line per hour."),
    Metric("leaves_per_hour", "1/h", "series", _CHURN,
           "Nodes that go off line per hour."),
    Metric("forged_accepted", "", "yes-no", _ADVERSARY,
           "Whether a lookup accepted a forged record."),
    Metric("replayed_accepted", "", "yes-no", _ADVERSARY,
           "Whether a lookup returned an old record although a newer one was published."),
    Metric("eclipse_alarm", "", "yes-no", _LOOKUPS,
           "Whether a lookup raised the eclipse alarm. The label is target for the eclipsed "
           "key, and beside for keys that have nodes of the adversary's crowd among their "
           "nearest. It is empty for all other keys."),
    Metric("eclipse_success", "", "yes-no", _ADVERSARY,
           "Whether the adversary held all k nodes that a lookup of the target found."),
    Metric("table_sybils_max", "", "series", _ADVERSARY,
           "The most contacts of the adversary's subnet in the routing table of any honest "
           "node."),
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
