"""The settings of Anonymous Paths Management."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.hop_limit import MAX_HOPS
from overlay.settings import FLAG, Settings, follows, seconds, setting, whole

__all__ = ["EXPIRY_STEP_S", "ApmSettings"]

EXPIRY_STEP_S: Final = 300
"""Expiry times are rounded up to five minutes. A finer one would distinguish hops of one path
from those of another, and be a fingerprint of the source's clock."""

_TIMER: Final = seconds(0.001, 31_536_000)
"""Up to a year, for laboratories in which nothing may end by itself."""

_COUNT: Final = whole(1, 1_000_000)
_ATTEMPTS: Final = whole(1, 100)


@dataclass(frozen=True, slots=True)
class ApmSettings(Settings):
    """How circuits are requested, kept, limited and forgotten."""

    onion_suite: int = setting(
        1, whole(1, 255), "Number of the onion suite of circuits that this node opens."
    )
    esp_suite: int = follows("ipsec", 3, whole(1, 255))
    max_hops: int = setting(MAX_HOPS, whole(1, MAX_HOPS), "Longest path that this node opens.")
    setup_timeout_s: float = setting(
        15.0, _TIMER, "Time for which the source waits for the confirmation, link included."
    )
    link_timeout_s: float = setting(
        8.0, _TIMER, "Time for which an onion waits at a relay for the link to the next hop."
    )
    keepalive_interval_s: float = setting(
        10.0,
        _TIMER,
        "Time between two PINGs from the source to the exit of a circuit at rest. A circuit that "
        "sends and receives nothing is tested within half a second.",
    )
    keepalive_losses: int = setting(
        3, _ATTEMPTS, "Least number of unanswered PINGs in a row before a circuit is lost."
    )
    answer_patience_s: float = setting(
        1.2,
        _TIMER,
        "Least time for which PINGs stay unanswered before a circuit is lost; four measured waits "
        "for an answer (RFC 6298) if that is longer.",
    )
    watch_interval_s: float = setting(
        0.1,
        _TIMER,
        "Time between two readings of the counters of a circuit in use; those of a circuit at "
        "rest are read a fifth as often.",
    )
    standby: bool = setting(
        True,
        FLAG,
        "Keep a second circuit ready for each open one, over other relays to the same exit. If a "
        "relay fails, it takes over with the same inner address.",
    )
    idle_expiry_s: float = setting(
        60.0, _TIMER, "Time without use of its forward SA after which a hop forgets a circuit."
    )
    unconfirmed_expiry_s: float = setting(
        30.0, _TIMER, "Time after which a hop forgets a circuit that was never used."
    )
    lifetime_s: float = setting(
        86_400.0, _TIMER, "Lifetime that the source requests, and the longest that a hop grants."
    )
    renewal_s: float = setting(
        300.0,
        _TIMER,
        "Time before the end of its lifetime at which a new standby circuit replaces a circuit; "
        "the last quarter of a short lifetime.",
    )
    onion_validity_s: float = setting(
        120.0, _TIMER, "Least time for which an onion signalling message stays acceptable."
    )
    max_onion_validity_s: float = setting(
        900.0,
        _TIMER,
        "A hop refuses an onion that claims to stay valid longer, because the replay cache must "
        "remember it that long.",
    )
    max_source_circuits: int = setting(
        # A node has at most 256 paths, and each needs one.
        256,
        _COUNT,
        "Circuits that this node opens for itself.",
    )
    max_circuits: int = setting(2000, _COUNT, "Circuits that it carries for others, in total.")
    max_circuits_per_neighbour: int = setting(
        200,
        _COUNT,
        "Of these circuits, how many may arrive over one link. Of this and of every other table "
        "below, prefixes of addresses have shares as well.",
    )
    max_next_hops: int = setting(
        768,
        _COUNT,
        "Neighbours to which these circuits go on, those of the last 75 s included. max_links of "
        "[link] must leave room for them, for accepted links and for own paths.",
    )
    max_held_onions: int = setting(128, _COUNT, "Onions that wait for a link at the same time.")
    max_held_onions_per_neighbour: int = setting(
        8, _COUNT, "Of these onions, how many may have come over one link."
    )
    max_closing_circuits: int = setting(
        512,
        _COUNT,
        "Closing circuits whose SAs are kept at the same time, each for twice as long as closing "
        "messages are sent.",
    )
    max_replay_entries: int = setting(
        32_768, whole(1, 100_000_000), "Onion signalling messages remembered against replay."
    )
    max_replay_entries_per_neighbour: int = setting(
        2000,
        whole(1, 100_000_000),
        "Of these messages, how many may have come over one link. It bounds what a neighbour may "
        "request in the time for which messages stay valid.",
    )
    closing_interval_s: float = setting(
        0.5, _TIMER, "Pause between two copies of REFUSE or TEARDOWN."
    )
    closing_copies: int = setting(2, _ATTEMPTS, "How often REFUSE and TEARDOWN are sent.")
    confirm_retry_s: float = setting(
        1.0, _TIMER, "First pause before the exit repeats CONFIRM; it doubles each time."
    )
    carrier_retry_s: float = setting(
        0.5,
        _TIMER,
        "First pause before a signalling message is repeated over a link; it doubles each time.",
    )
    carrier_attempts: int = setting(
        5, _ATTEMPTS, "How often it is sent in all before the neighbour counts as silent."
    )
    rekey_after_s: float = setting(
        900.0,
        _TIMER,
        "Age at which the keys of an onion SA are replaced. An attacker who obtains keys later "
        "decrypts no more than that much of recorded traffic.",
    )
    rekey_after_bytes: int = setting(
        2**36,
        whole(1, 2**63 - 1, "bytes"),
        "Keys are replaced earlier after this volume, or after half of what the ESP suite "
        "allows, if that is less.",
    )
    rekey_after_packets: int = setting(
        2**30, whole(1, 2**63 - 1), "Keys are replaced earlier after this number of packets."
    )
    rekey_spread_s: float = setting(
        2.0,
        _TIMER,
        "Longest random delay of the first replacement of each hop's keys after the confirmation, "
        "and of the change to new keys after their agreement. Without it, order and timing would "
        "tell a hop its position in the path.",
    )
    rekey_retry_s: float = setting(
        0.5,
        _TIMER,
        "First pause before the source repeats a message about new keys; it doubles each time.",
    )
    rekey_timeout_s: float = setting(
        30.0, _TIMER, "Time without an answer about new keys after which the circuit ends."
    )
    retired_sa_s: float = setting(
        30.0, _TIMER, "Time for which retired keys still decrypt packets that are under way."
    )
    lent_address_hold_s: float = setting(
        30.0,
        _TIMER,
        "Time for which an exit keeps the inner addresses of a circuit whose link it lost. The "
        "source may move them to its standby circuit when it has noticed.",
    )
    rekey_pause_s: float = setting(
        0.05, _TIMER, "Least time between two agreements of a hop to new keys of one circuit."
    )
    allow_private_endpoints: bool = follows("network", False, FLAG)

    def check(self) -> None:
        """Check timers that depend on each other."""
        if self.idle_expiry_s <= self.keepalive_interval_s * self.keepalive_losses:
            raise ValueError(
                "idle_expiry_s must exceed keepalive_interval_s times keepalive_losses, because "
                "hops would forget circuits that are in use"
            )
        if self.max_onion_validity_s < self.onion_validity_s + EXPIRY_STEP_S:
            raise ValueError(
                f"max_onion_validity_s must exceed onion_validity_s by {EXPIRY_STEP_S} s, the step "
                "to which expiry times are rounded"
            )
        if self.retired_sa_s < self.rekey_timeout_s:
            raise ValueError(
                "retired_sa_s must not be below rekey_timeout_s, because a hop would forget "
                "retired keys before the source has given up on the new ones"
            )
