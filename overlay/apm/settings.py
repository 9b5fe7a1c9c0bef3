"""The tunables of Anonymous Paths Management: each one with its unit, range and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["EXPIRY_STEP_S", "MAX_HOPS", "ApmSettings"]

MAX_HOPS: Final = 5
"""Slots of an onion signalling message; six IPsec templates (five layers and the link) carry it."""

EXPIRY_STEP_S: Final = 300
"""Expiry times are rounded up to five minutes: a finer one would tell hops of one path apart
from those of another, and fingerprint the source's clock."""

_POSITIVE: Final = (
    "setup_timeout_s",
    "link_timeout_s",
    "keepalive_interval_s",
    "keepalive_losses",
    "answer_patience_s",
    "watch_interval_s",
    "idle_expiry_s",
    "unconfirmed_expiry_s",
    "lifetime_s",
    "renewal_s",
    "onion_validity_s",
    "max_onion_validity_s",
    "max_source_circuits",
    "max_circuits",
    "max_circuits_per_neighbour",
    "max_next_hops",
    "max_held_onions",
    "max_held_onions_per_neighbour",
    "max_closing_circuits",
    "max_replay_entries",
    "max_replay_entries_per_neighbour",
    "closing_interval_s",
    "closing_copies",
    "confirm_retry_s",
    "carrier_retry_s",
    "carrier_attempts",
    "rekey_after_s",
    "rekey_after_bytes",
    "rekey_after_packets",
    "rekey_spread_s",
    "rekey_retry_s",
    "rekey_timeout_s",
    "retired_sa_s",
    "lent_address_hold_s",
    "rekey_pause_s",
)


@dataclass(frozen=True, slots=True)
class ApmSettings:
    """How circuits are asked for, kept, bounded and forgotten; times are in seconds.

    Attributes:
        onion_suite: onion suite of circuits that this node opens (``overlay.apm.crypto``).
        esp_suite: ESP suite of the onion SAs of those circuits (``overlay.ipsec.suites``).
        max_hops: longest path that this node opens, 1 to 5.
        setup_timeout_s: how long the source waits for the confirmation, link included.
        link_timeout_s: how long an onion waits at a relay for the link to the next hop.
        keepalive_interval_s: time between two PINGs from the source to the exit of a circuit at
            rest. A circuit that sends and hears nothing is asked within half a second.
        keepalive_losses: unanswered PINGs in a row before a circuit is lost, at least.
        answer_patience_s: time that PINGs stay unanswered before a circuit is lost, at least; four
            measured waits for an answer (RFC 6298) if that is longer.
        watch_interval_s: time between two looks at the counters of a circuit in use; one at rest is
            looked at a fifth as often.
        standby: keep a second circuit ready for each open one, over other relays to the same exit.
            If a relay dies, it takes over with the same inner address.
        idle_expiry_s: a hop forgets a circuit whose forward SA was unused that long.
        unconfirmed_expiry_s: a hop forgets a circuit that was never used by then.
        lifetime_s: what the source asks for, and the most that a hop grants.
        renewal_s: so long before the end of its lifetime, or of the last quarter of a short one, a
            circuit is replaced by a standby circuit that is new.
        onion_validity_s: how long an onion signalling message stays acceptable, at least.
        max_onion_validity_s: a hop refuses one that claims to stay valid longer: the
            replay cache must remember it that long.
        max_source_circuits: circuits that this node opens for itself; a node has at most 256
            paths, and each needs one.
        max_circuits: circuits that it carries for others, in total.
        max_circuits_per_neighbour: of those, how many may arrive over one link. Of this and of
            every other table below, prefixes of addresses have shares as well
            (``overlay.shares``).
        max_next_hops: neighbours to which these go on; also those of the last 75 s. ``max_links``
            of the links must leave room for these, for accepted links and for own paths.
        max_held_onions: onions that wait for a link at the same time.
        max_held_onions_per_neighbour: of those, how many may have come over one link.
        max_closing_circuits: closing circuits whose SAs are kept at the same time, each for twice
            as long as closing messages are sent.
        max_replay_entries: onion signalling messages remembered against replay.
        max_replay_entries_per_neighbour: of those, how many may have come over one link;
            it bounds what a neighbour may ask in the time that messages stay valid.
        closing_copies, closing_interval_s: how often REFUSE and TEARDOWN are sent.
        confirm_retry_s: first pause before the exit repeats CONFIRM; doubles each time.
        carrier_retry_s: first pause before a signalling message is repeated over a link;
            doubles each time.
        carrier_attempts: how often it is sent in all before the neighbour counts as silent.
        rekey_after_s: the keys of an onion SA are replaced after this time: who takes them later
            reads no more than that much of what was recorded.
        rekey_after_bytes: they are replaced earlier after so many bytes; at half of what the
            ESP suite allows, if that is less.
        rekey_after_packets: they are replaced earlier after so many packets.
        rekey_spread_s: by up to so much, at random, the first replacement of each hop's keys
            follows the confirmation, and the change to new keys follows their agreement: else
            order and timing would tell a hop where in the path it is.
        rekey_retry_s: first pause before the source repeats what it said about new keys;
            doubles each time.
        rekey_timeout_s: a hop that has not answered by then ends the circuit.
        retired_sa_s: how long replaced keys still open what was under way.
        lent_address_hold_s: how long an exit keeps the inner addresses of a circuit whose link it
            lost. The source may move them to its standby circuit, once it has noticed.
        rekey_pause_s: a hop agrees to new keys of a circuit once in that time, at most.
        allow_private_endpoints: let onions name private or loopback next hops (labs).
    """

    onion_suite: int = 1
    esp_suite: int = 3
    max_hops: int = MAX_HOPS
    setup_timeout_s: float = 15.0
    link_timeout_s: float = 8.0
    keepalive_interval_s: float = 10.0
    keepalive_losses: int = 3
    answer_patience_s: float = 1.2
    watch_interval_s: float = 0.1
    standby: bool = True
    idle_expiry_s: float = 60.0
    unconfirmed_expiry_s: float = 30.0
    lifetime_s: float = 86_400.0
    renewal_s: float = 300.0
    onion_validity_s: float = 120.0
    max_onion_validity_s: float = 900.0
    max_source_circuits: int = 256
    max_circuits: int = 2000
    max_circuits_per_neighbour: int = 200
    max_next_hops: int = 768
    max_held_onions: int = 128
    max_held_onions_per_neighbour: int = 8
    max_closing_circuits: int = 512
    max_replay_entries: int = 32_768
    max_replay_entries_per_neighbour: int = 2000
    closing_interval_s: float = 0.5
    closing_copies: int = 2
    confirm_retry_s: float = 1.0
    carrier_retry_s: float = 0.5
    carrier_attempts: int = 5
    rekey_after_s: float = 900.0
    rekey_after_bytes: int = 2**36
    rekey_after_packets: int = 2**30
    rekey_spread_s: float = 2.0
    rekey_retry_s: float = 0.5
    rekey_timeout_s: float = 30.0
    retired_sa_s: float = 30.0
    lent_address_hold_s: float = 30.0
    rekey_pause_s: float = 0.05
    allow_private_endpoints: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_hops <= MAX_HOPS:
            raise ValueError(f"max_hops must lie between 1 and {MAX_HOPS}.")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0.")
        if self.idle_expiry_s <= self.keepalive_interval_s * self.keepalive_losses:
            raise ValueError(
                "idle_expiry_s must exceed keepalive_interval_s times keepalive_losses,"
                " or hops forget circuits that are alive."
            )
        if self.max_onion_validity_s < self.onion_validity_s + EXPIRY_STEP_S:
            raise ValueError(
                f"max_onion_validity_s must exceed onion_validity_s by {EXPIRY_STEP_S} s,"
                " the step to which expiry times are rounded."
            )
        if self.retired_sa_s < self.rekey_timeout_s:
            raise ValueError(
                "retired_sa_s must not be below rekey_timeout_s, or a hop forgets replaced keys"
                " before the source has given up on the new ones."
            )
