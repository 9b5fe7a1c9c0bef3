"""The settings of links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.settings import FLAG, Settings, follows, seconds, setting, whole

__all__ = ["LinkSettings"]

_LEAST_S: Final = 0.05
"""Shorter timers waste CPU time, and floats of Unix time must be able to represent them."""

_LONGEST_S: Final = 31_536_000
"""A year, for laboratories in which nothing may end by itself."""

_MANY: Final = 1_000_000
_TIMER: Final = seconds(_LEAST_S, _LONGEST_S)
_COUNT: Final = whole(1, _MANY)


@dataclass(frozen=True, slots=True)
class LinkSettings(Settings):
    """Timers and bounds of the link handshake."""

    allow_private_endpoints: bool = follows("network", False, FLAG)
    handshake_timeout_s: float = setting(
        10.0, _TIMER, "Time for which initiations are repeated before a peer is unreachable."
    )
    retry_initial_s: float = setting(
        0.5, _TIMER, "First pause between two initiations; it doubles each time."
    )
    retry_max_s: float = setting(5.0, _TIMER, "Longest pause between two initiations.")
    unconfirmed_s: float = setting(
        15.0,
        _TIMER,
        "Time for which a responder keeps SAs of which the initiator has not proved possession; "
        "at least handshake_timeout_s, because the initiator waits that long.",
    )
    rekey_after_s: float = setting(
        # With 900 neighbours this is one handshake per second.
        900.0,
        _TIMER,
        "Age at which the keys of a link are replaced. A node that is seized later cannot decrypt "
        "traffic that is older.",
    )
    rekey_after_bytes: int = setting(
        2**38,
        whole(1, 2**63 - 1, "bytes"),
        "Keys are replaced earlier after this volume, or after half of what the ESP suite "
        "allows, if that is less.",
    )
    rekey_after_packets: int = setting(
        2**31, whole(1, 2**63 - 1), "Keys are replaced earlier after this number of packets."
    )
    rekey_pause_s: float = setting(
        1.0,
        _TIMER,
        "Keys are never replaced earlier than this. Packets under older keys must have arrived "
        "before still newer keys replace those.",
    )
    endpoint_silence_s: float = setting(
        3.0,
        _TIMER,
        "Time for which the endpoint in use must be silent before a link moves to another "
        "endpoint that the peer has proved; below handshake_timeout_s, so that the peer still "
        "waits.",
    )
    retired_sa_s: float = setting(
        30.0, _TIMER, "Time for which retired SAs still receive packets that are under way."
    )
    max_links: int = setting(
        # 768 accepted links, 768 to next hops of circuits of others (max_next_hops of [apm]),
        # 16 half-open ones, and 256 for own paths: others cannot use up what these need.
        1856,
        _COUNT,
        "Links at the same time.",
    )
    max_accepted_links: int = setting(768, _COUNT, "Of these links, how many other nodes may open.")
    max_accepted_links_per_prefix: int = setting(
        64, _COUNT, "Of the accepted links, how many from one /24 or /56."
    )
    max_half_open: int = setting(
        256,
        _COUNT,
        "Handshakes under way that others began, from addresses that a cookie proved.",
    )
    max_half_open_per_prefix: int = setting(
        16, _COUNT, "Of these handshakes, how many from one /24 or /56."
    )
    max_unproved_half_open: int = setting(
        16,
        _COUNT,
        "Handshakes under way that others began without a cookie. They count apart, because "
        "their source address may be forged. Beyond it every initiator must bring a cookie, "
        "which takes one more round trip.",
    )
    max_unproved_half_open_per_prefix: int = setting(
        4,
        _COUNT,
        "Of these handshakes, how many from one /24 or /56, before initiators of that prefix "
        "must bring a cookie.",
    )
    cookie_above_initiations_per_s: int = setting(
        50,
        whole(1, _MANY, "initiations per second"),
        "Rate beyond which an initiator must first prove that it receives at its address. One "
        "handshake costs about half a millisecond of CPU time.",
    )
    max_cookie_replies_per_s: int = setting(
        # A reply costs 20 microseconds, so these cost a tenth of a core.
        5000,
        whole(1, _MANY, "replies per second"),
        "Replies to initiators without a cookie, in all. One /24 or /56 gets at most half of "
        "them; an initiation beyond the limit costs one hash.",
    )
    max_clock_skew_s: float = setting(
        600.0, _TIMER, "Largest difference between the clock of an initiator and that of this host."
    )
    max_known_initiators: int = setting(
        8192, _COUNT, "Nodes whose latest initiation is remembered against replay."
    )

    def check(self) -> None:
        """Check timers and numbers that limit each other."""
        if self.retry_max_s < self.retry_initial_s:
            raise ValueError("retry_max_s must not be below retry_initial_s")
        if self.unconfirmed_s < self.handshake_timeout_s:
            raise ValueError("unconfirmed_s must not be below handshake_timeout_s")
        if self.endpoint_silence_s >= self.handshake_timeout_s:
            raise ValueError("endpoint_silence_s must be below handshake_timeout_s")
        if self.max_accepted_links > self.max_links:
            raise ValueError("max_accepted_links must not exceed max_links")
