r"""The state machine of one link: handshakes, pairs of SAs, rekeying.

A link to a peer may have a *handshake* of ours, an *offered* pair of SAs (we answered the peer's
initiation, and the peer has not confirmed yet) and a *current* pair. The state says which of the
three exist. :data:`TRANSITIONS` is the whole protocol::

    CLOSED --connect--> CONNECTING --response--> UP --rekey due--> REKEYING --response--> UP
      \--offer--> ANSWERED --proven--> UP --offer--> REANSWERED --proven--> UP

A rekeying without an answer ends the link only if the peer is also silent on the current pair, or
if that pair reaches its hard limit, because an observer can disturb handshakes. Each attempt sends
a challenge on the current pair, whose echo shows that the peer is there.

If both sides begin at once, the side with the lower overlay address has precedence. The other side
drops its own handshake and answers (OUTRANKED). The lower side answers too, because its own
initiation may be lost. The pair that is completed or confirmed first becomes current. The other
pair still receives for a limited time, so in any order of arrival both sides have a common pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import InternalError, NotAuthentic, Refused
from overlay.ipsec.interface import Spi
from overlay.link.backoff import Backoff
from overlay.link.endpoint_proof import EndpointProof, names_endpoint
from overlay.link.events import LinkClosed, LinkFailed, LinkFailure, LinkPeer
from overlay.link.handshake import MessageType, Notice
from overlay.link.keymat import make_notice
from overlay.link.lifetimes import hard_s
from overlay.link.outgoing import OutgoingHandshake
from overlay.link.pair import SaPair
from overlay.link.services import LinkServices
from overlay.link.states import Cause, LinkInput, LinkState
from overlay.transitions import required_step

__all__ = ["MAX_OLD_PAIRS", "MAX_REKEY_PAUSE_S", "TRANSITIONS", "Link"]

T = TypeVar("T")

MAX_REKEY_PAUSE_S: Final = 120.0
"""Longest pause after a rekeying without an answer. The pause begins at ``handshake_timeout_s`` and
doubles. A pair lives for several such pauses after the first attempt."""

MAX_OLD_PAIRS: Final = 4
"""Two pairs from each of the last two changes: the former current pair, and the offered pair that
was not used. Both sides wait ``rekey_pause_s`` between changes. If a peer does not wait, its late
packets are lost."""


class Link:
    """The handshake and the pairs of one peer. ``Links`` owns it and routes messages to it.

    It has at most one handshake, one offered pair, one current pair and ``MAX_OLD_PAIRS`` old ones.
    """

    def __init__(self, services: LinkServices, overlay_address: OverlayAddress) -> None:
        self._services = services
        self._outbox = services.outbox
        self._overlay_address = overlay_address
        self._old: list[SaPair] = []
        self.state = LinkState.CLOSED
        self.handshake: OutgoingHandshake | None = None
        self.offered: SaPair | None = None
        self.current: SaPair | None = None

    def feed(self, happened: LinkInput, cause: Cause) -> None:
        """Process one input: run its action and enter the next state."""
        action, state = required_step(TRANSITIONS, self.state, happened, "a link")
        action(self, cause)
        self.state = state

    def feed_offer(self, cause: Cause) -> None:
        """Process a valid initiation of the peer, as OFFER or OUTRANKED."""
        lower = self._overlay_address < self._services.credentials.overlay_address
        self.feed(LinkInput.OUTRANKED if lower else LinkInput.OFFER, cause)

    # What the peer says about a pair

    def pair(self, inbound_spi: Spi) -> SaPair | None:
        """Return the pair that receives on this SPI."""
        for pair in self._pairs():
            if pair.inbound_spi == inbound_spi:
                return pair
        return None

    def confirmed(self, pair: SaPair, source: Endpoint, now: float) -> None:
        """Process a confirm of the peer. If the pair is no longer offered, acknowledge it."""
        known = pair is not self.offered
        if pair is self.current and pair.confirming is not None:
            pair.confirming = None
            self._limit_old(now)
        elif pair is self.offered:
            _present(pair.proof).confirmed(source, now)
            self._follow_proof(pair, now)
        elif pair is self.current:
            self.seen_at(source, now)  # the peer may have moved, or an observer sent a copy
        if known and self.state is not LinkState.CLOSED:
            self._acknowledge(pair)

    def seen_at(self, source: Endpoint, now: float) -> None:
        """Process the source of an authentic packet from another endpoint than expected."""
        pair = self.current
        if pair is not None and pair.proof is not None:
            pair.proof.seen(source, now)
            self._follow_proof(pair, now)

    def challenged(self, pair: SaPair, token: bytes) -> None:
        """Echo the peer's token to the known endpoint of the peer, and not to its source."""
        if pair is not self.offered:
            own = self._services.local_endpoint(pair.endpoint)
            is_own = own is not None and names_endpoint(token, own)
            self._notify(MessageType.OWN_ADDRESS if is_own else MessageType.ECHO, pair, token)

    def echoed(self, pair: SaPair, notice: Notice, source: Endpoint, now: float) -> None:
        """Process the echo of a token.

        Raises:
            NotAuthentic: the token was not sent to ``source``.
        """
        if self.handshake is not None and pair is self.current:
            self.handshake.probed(notice.token)
        if pair.proof is not None:
            own_address = notice.kind is MessageType.OWN_ADDRESS
            if not pair.proof.echoed(notice.token, source, now, own_address=own_address):
                raise NotAuthentic("an echo from another endpoint than was asked")
            self._follow_proof(pair, now)

    def answer_again(self, initiation: bytes, source: Endpoint) -> bool:
        """Answer a copy of the initiation of the offered pair; return False if it is no copy."""
        pair = self.offered
        if pair is None or not _present(pair.offer).answer_again(initiation, source):
            return False
        _present(pair.proof).initiated_also_from(source)
        self._outbox.send(_present(pair.offer).answer, source)
        return True

    def _follow_proof(self, pair: SaPair, now: float) -> None:
        """Send the challenges, and act if the endpoint of the peer is known now."""
        proof = _present(pair.proof)
        for token, endpoint in proof.take_challenges():
            notice = make_notice(MessageType.CHALLENGE, pair.agreement.secrets, token)
            self._outbox.send(notice.encode(), endpoint)
        if proof.settled is None or pair not in (self.current, self.offered):
            return
        moved = proof.settled != pair.endpoint
        if moved and not self._moves_to(pair, proof.settled, now):
            # Another peer at that host uses the same SPI, so this peer must choose a new one.
            lost = LinkInput.OFFER_LOST if pair is self.offered else LinkInput.CURRENT_LOST
            self.feed(lost, Cause(now))
        elif pair is self.offered:
            self.feed(LinkInput.PROVEN, Cause(now))
        elif moved:
            self._outbox.announce(pair.established(usable=True))

    def _moves_to(self, pair: SaPair, endpoint: Endpoint, now: float) -> bool:
        if not self._claim_at(pair, endpoint):
            return False
        if pair is self.current:
            if self.offered is not None and self._claim_at(self.offered, endpoint):
                self.offered.proof = self._new_proof(endpoint)
            if self.handshake is not None:  # its initiations go to the former endpoint
                self._drop_handshake(Cause(now))
                self._start(Cause(now))
        return True

    def _claim_at(self, pair: SaPair, endpoint: Endpoint) -> bool:
        if endpoint.host != pair.endpoint.host:  # outbound SPIs are reserved per host
            numbers, spi = self._services.numbers, pair.keys.outbound_spi
            try:
                numbers.claim_outbound(endpoint, spi)
            except Refused:
                return False
            numbers.release_outbound(pair.endpoint, spi)
        pair.endpoint = endpoint
        return True

    def _new_proof(self, endpoint: Endpoint) -> EndpointProof:
        return self._services.new_proof(endpoint, endpoint)

    def peer_closed(self, pair: SaPair, now: float) -> None:
        """Process the peer's message that it has closed ``pair``."""
        cause = Cause(now, reason=LinkFailure.PEER_CLOSED)
        if pair is self.offered:
            self.feed(LinkInput.OFFER_LOST, cause)
        elif pair is self.current:
            self.feed(LinkInput.CURRENT_LOST, cause)
        else:
            self._old.remove(pair)
            self._retire(pair)

    # Timers

    def deadline(self) -> float:
        """Return when to call :meth:`handle_deadline`."""
        times = []
        for pair in self._pairs():
            times.append(min(pair.expires_at, pair.sends_until))
            if pair.proof is not None:
                times.append(pair.proof.deadline)
        if self.handshake is not None:
            times.append(self.handshake.deadline)
        if self.current is not None and self.current.confirming is not None:
            times.append(self.current.confirming.deadline)
        elif self.current is not None and self.state is LinkState.UP:
            times.append(self.current.rekey_at)
        if self.current is not None:
            times.append(self._used_up_at(self.current))
        return min(times, default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do everything that is due. Afterwards the deadline is later than ``now``."""
        self._end_old(now)
        for pair in (self.current, self.offered):
            if pair is not None and pair.proof is not None and pair.proof.deadline <= now:
                pair.proof.handle_deadline(now)
                self._follow_proof(pair, now)
        while (due := self._due(now)) is not None:
            self.feed(due, Cause(now))
        if self.handshake is not None:
            self.handshake.send_copies(now)
        current = self.current
        if current is not None and current.confirming and current.confirming.next_at <= now:
            self._confirm(current, current.confirming, now)

    def _end_old(self, now: float) -> None:
        for pair in [pair for pair in self._old if pair.expires_at <= now]:
            self._old.remove(pair)
            self._retire(pair)
        for pair in self._old:
            if pair.sends_until <= now:
                pair.sends_until = math.inf
                self._outbox.announce(pair.retired_event())

    def _due(self, now: float) -> LinkInput | None:
        if self.current is not None and self._used_up_at(self.current) <= now:
            return LinkInput.CURRENT_LOST
        if self.handshake is not None:
            if self.handshake.backoff.gives_up_at <= now:
                silent = self.state is LinkState.REKEYING and not self.handshake.peer_is_there
                return LinkInput.SILENT if silent else LinkInput.GIVE_UP
            if self.handshake.backoff.next_at <= now:
                return LinkInput.RETRY_DUE
        if self.offered is not None and self.offered.expires_at <= now:
            return LinkInput.OFFER_LOST
        if self.current is not None:
            if self.current.confirming is not None:
                lost = self.current.confirming.gives_up_at <= now
                return LinkInput.CURRENT_LOST if lost else None
            if self.state is LinkState.UP and self.current.rekey_at <= now:
                return LinkInput.REKEY_DUE
        return None

    def _used_up_at(self, pair: SaPair) -> float:
        return pair.agreed_at + hard_s(self._services.settings)

    # Actions of the table

    def _nothing(self, cause: Cause) -> None:
        """Do nothing, because the link exists or is being opened already."""

    def _start(self, cause: Cause) -> None:
        peer, cookie = cause.peer, None
        if peer is None:
            current = _present(self.current)
            peer = LinkPeer(self._overlay_address, current.agreement.link_key, current.endpoint)
            cookie = current.agreement.secrets.cookie.reveal()
        self.handshake = OutgoingHandshake(self._services, peer, cause.now, cookie)
        self._retry(cause)

    def _retry(self, cause: Cause) -> None:
        handshake = _present(self.handshake)
        handshake.attempt(cause.now)
        if self.current is not None:
            self._notify(MessageType.CHALLENGE, self.current, handshake.probe)

    def _postpone(self, cause: Cause) -> None:
        """Keep the current pair, which works, and rekey again after a growing pause."""
        self._drop_handshake(cause)
        current = _present(self.current)
        pause_s = self._services.settings.handshake_timeout_s * 2.0**current.failed_rekeyings
        jitter = self._services.rng.uniform(0.8, 1.2)  # so that links do not rekey at once
        current.failed_rekeyings = min(current.failed_rekeyings + 1, 16)
        current.rekey_at = cause.now + min(pause_s, MAX_REKEY_PAUSE_S) * jitter

    def _answer(self, cause: Cause) -> None:
        """Store the offered pair in place of an earlier one, and send our response."""
        pair, replaced = _present(cause.pair), self.offered
        pair.expires_at = cause.now + self._services.settings.unconfirmed_s
        pair.rekeyed = next(self._pairs(), None) is not None
        self.offered = pair
        self._outbox.announce(pair.established(usable=False))
        if replaced is not None:
            self._retire(replaced)
        offer = _present(pair.offer)
        for source in offer.sources:
            self._outbox.send(offer.answer, source)

    def _yield(self, cause: Cause) -> None:
        self._drop_handshake(cause)
        self._answer(cause)

    def _complete(self, cause: Cause) -> None:
        """Use the pair of our handshake, and demote a pair that was offered meanwhile."""
        _present(self.handshake).finish()
        self.handshake = None
        pair = _present(cause.pair)
        pair.rekeyed = next(self._pairs(), None) is not None
        self._demote(cause.now)
        self.current, pair.proof = pair, self._new_proof(pair.endpoint)
        self._outbox.announce(pair.established(usable=True))
        pair.confirming = Backoff(self._services.settings, self._services.rng, cause.now)
        self._confirm(pair, pair.confirming, cause.now)

    def _promote(self, cause: Cause) -> None:
        """Use the offered pair, and drop our own handshake, which is no longer needed."""
        self._drop_handshake(cause)
        pair, self.offered = _present(self.offered), None
        pair.offer = None
        self._demote(cause.now)
        self.current, pair.expires_at = pair, math.inf
        self._limit_old(cause.now)
        self._outbox.announce(pair.established(usable=True))
        self._acknowledge(pair)

    def _drop_handshake(self, cause: Cause) -> None:  # noqa: ARG002 - an action of the table
        if self.handshake is not None:
            self.handshake.abandon()
            self.handshake = None

    def _drop_offer(self, cause: Cause) -> None:  # noqa: ARG002 - an action of the table
        offered, self.offered = _present(self.offered), None
        self._retire(offered)

    def _drop_current(self, cause: Cause) -> None:
        """Remove the current pair and keep only the offered one."""
        self._drop_handshake(cause)
        current, self.current = _present(self.current), None
        self._retire(current)
        self._limit_old(cause.now)

    def _fail(self, cause: Cause) -> None:
        self._drop_handshake(cause)
        self._outbox.announce(LinkFailed(self._overlay_address, cause.reason))

    def _close(self, cause: Cause) -> None:
        self._drop_handshake(cause)
        for pair in self._pairs():
            self._release(pair)
        self._old.clear()
        self.offered = self.current = None
        self._outbox.announce(LinkClosed(self._overlay_address, cause.reason))

    def _notify_and_close(self, cause: Cause) -> None:
        for pair in self._pairs():
            self._notify(MessageType.CLOSE, pair)
        self._close(cause)

    # Pairs

    def _pairs(self) -> Iterator[SaPair]:
        if self.current is not None:
            yield self.current
        if self.offered is not None:
            yield self.offered
        yield from self._old

    def _demote(self, now: float) -> None:
        """Keep the former current and offered pairs for receiving, up to ``MAX_OLD_PAIRS``.

        The outbound SA stays for ``rekey_pause_s / 2``. A packet inside this host may have been
        assigned to it before the newer one was installed.
        """
        if self.current is not None:
            self.current.sends_until = now + self._services.settings.rekey_pause_s / 2
        for pair in (self.current, self.offered):
            if pair is not None:
                pair.confirming, pair.expires_at = None, math.inf
                pair.offer = pair.proof = None
                self._old.append(pair)
        self.current = self.offered = None
        while len(self._old) > MAX_OLD_PAIRS:
            self._retire(self._old.pop(0))

    def _limit_old(self, now: float) -> None:
        """Remove older pairs after ``retired_sa_s``, because both sides use the current pair."""
        for pair in self._old:
            pair.expires_at = min(pair.expires_at, now + self._services.settings.retired_sa_s)

    def _confirm(self, pair: SaPair, confirming: Backoff, now: float) -> None:
        confirming.advance(now)
        self._notify(MessageType.CONFIRM, pair)

    def _acknowledge(self, pair: SaPair) -> None:
        """Tell the initiator of ``pair`` that its confirm has arrived."""
        if not pair.ours:
            self._notify(MessageType.CONFIRM, pair)

    def _notify(self, kind: MessageType, pair: SaPair, token: bytes | None = None) -> None:
        notice = make_notice(kind, pair.agreement.secrets, token)
        self._outbox.send(notice.encode(), pair.endpoint)

    def _retire(self, pair: SaPair) -> None:
        self._release(pair)
        self._outbox.announce(pair.removed_event())

    def _release(self, pair: SaPair) -> None:
        self._services.numbers.release_spi(pair.inbound_spi)
        self._services.numbers.release_outbound(pair.endpoint, pair.keys.outbound_spi)


def _present(value: T | None) -> T:
    if value is None:
        raise InternalError("a link's state promises what the link does not hold")
    return value


Step = tuple[Callable[[Link, Cause], None], LinkState]


# Large: one row for each state and input.
def _table() -> Mapping[tuple[LinkState, LinkInput], Step]:
    s, i, do = LinkState, LinkInput, Link
    return MappingProxyType(
        {
            (s.CLOSED, i.CONNECT): (do._start, s.CONNECTING),
            (s.CLOSED, i.OFFER): (do._answer, s.ANSWERED),
            (s.CLOSED, i.OUTRANKED): (do._answer, s.ANSWERED),
            #
            (s.CONNECTING, i.CONNECT): (do._nothing, s.CONNECTING),
            (s.CONNECTING, i.OFFER): (do._answer, s.CROSSED),
            (s.CONNECTING, i.OUTRANKED): (do._yield, s.ANSWERED),
            (s.CONNECTING, i.RESPONSE): (do._complete, s.UP),
            (s.CONNECTING, i.RETRY_DUE): (do._retry, s.CONNECTING),
            (s.CONNECTING, i.GIVE_UP): (do._fail, s.CLOSED),
            (s.CONNECTING, i.CLOSE): (do._fail, s.CLOSED),
            #
            (s.ANSWERED, i.CONNECT): (do._nothing, s.ANSWERED),
            (s.ANSWERED, i.OFFER): (do._answer, s.ANSWERED),
            (s.ANSWERED, i.OUTRANKED): (do._answer, s.ANSWERED),
            (s.ANSWERED, i.PROVEN): (do._promote, s.UP),
            (s.ANSWERED, i.OFFER_LOST): (do._close, s.CLOSED),
            (s.ANSWERED, i.CLOSE): (do._notify_and_close, s.CLOSED),
            #
            (s.CROSSED, i.CONNECT): (do._nothing, s.CROSSED),
            (s.CROSSED, i.OFFER): (do._answer, s.CROSSED),
            (s.CROSSED, i.RESPONSE): (do._complete, s.UP),
            (s.CROSSED, i.PROVEN): (do._promote, s.UP),
            (s.CROSSED, i.RETRY_DUE): (do._retry, s.CROSSED),
            (s.CROSSED, i.GIVE_UP): (do._drop_handshake, s.ANSWERED),
            (s.CROSSED, i.OFFER_LOST): (do._close, s.CLOSED),
            (s.CROSSED, i.CLOSE): (do._notify_and_close, s.CLOSED),
            #
            (s.UP, i.CONNECT): (do._nothing, s.UP),
            (s.UP, i.REKEY_DUE): (do._start, s.REKEYING),
            (s.UP, i.OFFER): (do._answer, s.REANSWERED),
            (s.UP, i.OUTRANKED): (do._answer, s.REANSWERED),
            (s.UP, i.CURRENT_LOST): (do._close, s.CLOSED),
            (s.UP, i.CLOSE): (do._notify_and_close, s.CLOSED),
            #
            (s.REKEYING, i.CONNECT): (do._nothing, s.REKEYING),
            (s.REKEYING, i.OFFER): (do._answer, s.REKEY_CROSSED),
            (s.REKEYING, i.OUTRANKED): (do._yield, s.REANSWERED),
            (s.REKEYING, i.RESPONSE): (do._complete, s.UP),
            (s.REKEYING, i.RETRY_DUE): (do._retry, s.REKEYING),
            (s.REKEYING, i.GIVE_UP): (do._postpone, s.UP),
            (s.REKEYING, i.SILENT): (do._close, s.CLOSED),
            (s.REKEYING, i.CURRENT_LOST): (do._close, s.CLOSED),
            (s.REKEYING, i.CLOSE): (do._notify_and_close, s.CLOSED),
            #
            (s.REANSWERED, i.CONNECT): (do._nothing, s.REANSWERED),
            (s.REANSWERED, i.OFFER): (do._answer, s.REANSWERED),
            (s.REANSWERED, i.OUTRANKED): (do._answer, s.REANSWERED),
            (s.REANSWERED, i.PROVEN): (do._promote, s.UP),
            (s.REANSWERED, i.OFFER_LOST): (do._drop_offer, s.UP),
            (s.REANSWERED, i.CURRENT_LOST): (do._drop_current, s.ANSWERED),
            (s.REANSWERED, i.CLOSE): (do._notify_and_close, s.CLOSED),
            #
            (s.REKEY_CROSSED, i.CONNECT): (do._nothing, s.REKEY_CROSSED),
            (s.REKEY_CROSSED, i.OFFER): (do._answer, s.REKEY_CROSSED),
            (s.REKEY_CROSSED, i.RESPONSE): (do._complete, s.UP),
            (s.REKEY_CROSSED, i.PROVEN): (do._promote, s.UP),
            (s.REKEY_CROSSED, i.RETRY_DUE): (do._retry, s.REKEY_CROSSED),
            (s.REKEY_CROSSED, i.GIVE_UP): (do._drop_handshake, s.REANSWERED),
            (s.REKEY_CROSSED, i.OFFER_LOST): (do._drop_offer, s.REKEYING),
            (s.REKEY_CROSSED, i.CURRENT_LOST): (do._drop_current, s.ANSWERED),
            (s.REKEY_CROSSED, i.CLOSE): (do._notify_and_close, s.CLOSED),
        }
    )


TRANSITIONS: Final = _table()
"""The action and the next state for each state and input. Other combinations cannot happen."""
