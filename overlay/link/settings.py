"""The settings of links. Times are in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

__all__ = ["LinkSettings"]

_MIN_SECONDS = 0.05
"""Shorter timers waste CPU time, and floats of Unix time must be able to represent them."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Timers and bounds of the link handshake.

    Attributes:
        allow_private_endpoints: open links to private and loopback addresses (labs).
        handshake_timeout_s: how long initiations are repeated before a peer counts as unreachable.
        retry_initial_s, retry_max_s: first and longest pause between two initiations.
        unconfirmed_s: how long a responder keeps SAs of which the initiator has not proved
            possession; at least ``handshake_timeout_s``, because the initiator waits that long.
        rekey_after_s: age at which the keys of a link are replaced. After 15 minutes, a seized
            node cannot decrypt older traffic. With 900 neighbours this is one handshake per second.
        rekey_after_bytes: keys are replaced earlier after this number of bytes, or after half of
            what the ESP suite allows, if that is less.
        rekey_after_packets: keys are replaced earlier after this number of packets.
        rekey_pause_s: keys are never replaced earlier than this. Packets under older keys must
            have arrived before still newer keys replace those.
        endpoint_silence_s: how long the endpoint in use must be silent before a link moves to
            another endpoint that the peer has proved; below ``handshake_timeout_s``, so that the
            peer still waits.
        retired_sa_s: how long retired SAs still receive packets that are under way.
        max_links: links at the same time. Beside accepted links (768) and those to the next hops of
            circuits of others (768, ``max_next_hops`` of circuits) it leaves room for half-open
            links (16) and for own paths (256), so that others cannot use up what these need.
        max_accepted_links: of those, how many other nodes may open.
        max_accepted_links_per_prefix: of those, how many from one /24 or /56.
        max_half_open: handshakes under way that others began, from addresses that a cookie proved.
        max_half_open_per_prefix: of those, how many from one /24 or /56.
        max_unproved_half_open: handshakes under way that others began without a cookie; they
            count apart, because their source address may be forged. Beyond it every initiator
            must bring a cookie, which takes one more round trip.
        max_unproved_half_open_per_prefix: of those, how many from one /24 or /56, before
            initiators of that prefix must bring a cookie.
        cookie_above_initiations_per_s: beyond it an initiator must first prove that it receives
            at its address (one handshake costs about half a millisecond of CPU).
        max_cookie_replies_per_s: what initiators without a cookie get together. A reply costs
            20 microseconds, so these cost a tenth of a core; what is more costs a hash each. One
            /24 or /56 gets half of them at most.
        max_clock_skew_s: how far an initiator's clock may be off ours.
        max_known_initiators: nodes whose latest initiation is remembered against replay.
    """

    allow_private_endpoints: bool = False
    handshake_timeout_s: float = 10.0
    retry_initial_s: float = 0.5
    retry_max_s: float = 5.0
    unconfirmed_s: float = 15.0
    rekey_after_s: float = 900.0
    rekey_after_bytes: int = 2**38
    rekey_after_packets: int = 2**31
    rekey_pause_s: float = 1.0
    endpoint_silence_s: float = 3.0
    retired_sa_s: float = 30.0
    max_links: int = 1856
    max_accepted_links: int = 768
    max_accepted_links_per_prefix: int = 64
    max_half_open: int = 256
    max_half_open_per_prefix: int = 16
    max_unproved_half_open: int = 16
    max_unproved_half_open_per_prefix: int = 4
    cookie_above_initiations_per_s: int = 50
    max_cookie_replies_per_s: int = 5000
    max_clock_skew_s: float = 600.0
    max_known_initiators: int = 8192

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and isinstance(field.default, float):
                if not (_MIN_SECONDS <= value < math.inf):
                    raise ValueError(f"{field.name} must be at least {_MIN_SECONDS} seconds.")
            elif not isinstance(field.default, bool) and value < 1:
                raise ValueError(f"{field.name} must be at least 1.")
        if self.retry_max_s < self.retry_initial_s:
            raise ValueError("retry_max_s must not be below retry_initial_s.")
        if self.unconfirmed_s < self.handshake_timeout_s:
            raise ValueError("unconfirmed_s must not be below handshake_timeout_s.")
        if self.endpoint_silence_s >= self.handshake_timeout_s:
            raise ValueError("endpoint_silence_s must be below handshake_timeout_s.")
        if self.max_accepted_links > self.max_links:
            raise ValueError("max_accepted_links must not exceed max_links.")
