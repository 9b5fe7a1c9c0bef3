"""The source's side of REKEY, which starts soon after the confirmation and at soft limits.

::

    source                                      hop
    OFFER (generation, both SPIs, share) ->          draws its share, installs the new
                                                     inbound SA
    installs the new inbound SA  <- ANSWER (generation, share, tag)
    ... waits for a random time ...
    installs the new outbound SA
    SWITCH (generation, tag) ->                      installs the new outbound SA
    replaced SAs retire          <- SWITCHED (generation, tag)

Each side sends on a new SA only after the other side has proved that it receives on it. OFFER and
SWITCH are repeated until they are answered. :data:`TRANSITIONS` is the whole protocol at the
source.
"""

from __future__ import annotations

import dataclasses
import hmac
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

from overlay.apm.circuit_table import CircuitTable, OpenCircuit
from overlay.apm.circuits import OnionSas
from overlay.apm.control import RekeyAnswer, RekeyOffer, RekeySwitch, RekeySwitched
from overlay.apm.events import ApmDrop
from overlay.apm.lifetimes import source_lifetime
from overlay.apm.plan import SpiPair, allocate_spis
from overlay.apm.rekey_keys import EphemeralKey, RekeySecrets
from overlay.apm.rekey_states import SourceRekeyInput, SourceRekeyState, present
from overlay.apm.retired_sas import RetiredSa, RetiredSas
from overlay.apm.switchboard import Switchboard, control_packet
from overlay.apm.timers import Timers
from overlay.apm.translator import source_associations
from overlay.errors import InternalError, LimitReached, NotAuthentic
from overlay.ipsec.interface import Lifetime, SaIdentity, SecurityAssociation
from overlay.transitions import required_step

__all__ = ["LONGEST_PAUSE_S", "SHORT_SPREAD_S", "TRANSITIONS", "SourceRekeying"]

LONGEST_PAUSE_S: Final = 8.0

SHORT_SPREAD_S: Final = 0.05
"""The wait before the switch if the hard limit follows soon after the soft limit (3DES). It is
long enough to hide the distance to the source, and short enough for 50 MB/s."""

_Owner = tuple[int, int]
"""A circuit's number and the position of its hop, 1 the first."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    offer: RekeyOffer
    key: EphemeralKey


@dataclass(frozen=True, slots=True)
class _Agreed:
    """New SAs, the SWITCH message to send, and the tag of the SWITCHED to expect."""

    sas: OnionSas
    switch: RekeySwitch
    switched_tag: bytes


@dataclass(slots=True, eq=False)
class _SourceExchanges:
    """The source's side of the exchanges with one hop; times in Unix seconds.

    ``spread_s`` is the longest wait before the switch in seconds. ``replaced`` are the SAs that
    were replaced; the hop may still send on the backward one.
    """

    owner: _Owner
    state: SourceRekeyState = SourceRekeyState.SETTLED
    attempts: int = 0
    spread_s: float = 0.0
    pause_s: float = 0.0
    gives_up_at: float = math.inf
    attempt: _Attempt | None = None
    agreed: _Agreed | None = None
    replaced: OnionSas | None = None


class SourceRekeying:
    """The exchanges of this node's open circuits, one for each hop.

    No other class rekeys the SAs of an :class:`OpenCircuit`. Each hop has the SAs in use, at most
    one new pair and :data:`~overlay.apm.retired_sas.MAX_RETIRED` retired ones.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        rng: Random,
        lose: Callable[[int, int, float], None],
    ) -> None:
        """Store ``lose(number, position, now)``, which ends a circuit whose hop is silent."""
        self._board = switchboard
        self._connections = connections
        self._rng = rng
        self._lose = lose
        self._settings = switchboard.settings
        self._exchanges: dict[_Owner, _SourceExchanges] = {}
        self._timers: Timers[_Owner] = Timers()
        self._retired: RetiredSas[_Owner] = RetiredSas(
            switchboard.backend, switchboard.spis.release
        )

    # --- start and end of circuits ---

    def begin(self, circuit: OpenCircuit, now: float) -> None:
        """Schedule the first rekey of each hop, which replaces the keys of the onion.

        Each hop has its own random delay, so that a hop cannot infer its position from the order.
        """
        for position in range(1, len(circuit.path) + 1):
            exchange = _SourceExchanges((circuit.number, position))
            exchange.spread_s = self._settings.rekey_spread_s
            self._exchanges[exchange.owner] = exchange
            self._timers.set(exchange.owner, now + self._rng.random() * exchange.spread_s)

    def end(self, number: int, hops: int) -> RetiredSa:
        """Remove a circuit; return the SAs and SPIs that it has besides the SAs in use."""
        retired = RetiredSa()
        for owner in ((number, position) for position in range(1, hops + 1)):
            self._timers.cancel(owner)
            exchange = self._exchanges.pop(owner, None)
            if exchange is not None:
                retired += self._held(exchange) + self._retired.take(owner)
        return retired

    def _held(self, exchange: _SourceExchanges) -> RetiredSa:
        held = RetiredSa()
        if exchange.attempt is not None:
            held += RetiredSa(spis=_spis(exchange.attempt.offer))
        if exchange.agreed is not None and exchange.replaced is None:
            new = exchange.agreed.sas
            held += RetiredSa((_inbound(new),), new.own_spis)
        if exchange.replaced is not None:
            held += RetiredSa(source_associations(exchange.replaced), exchange.replaced.own_spis)
        return held

    # --- inputs ---

    def soft_expired(self, identity: SaIdentity, now: float) -> bool:
        """Rekey an SA at its soft limit; tell whether an own circuit uses it."""
        for owner, exchange in self._exchanges.items():
            if any(sa.identity == identity for sa in source_associations(self._sas(owner))):
                exchange.spread_s = self._spread_s(self._sas(owner).lifetime)
                self._feed(exchange, SourceRekeyInput.DUE, now)
                return True
        return False

    def _spread_s(self, lifetime: Lifetime) -> float:
        """Return the longest wait in seconds for which the hard limit is not reached."""
        hard, soft = lifetime.hard_bytes, lifetime.soft_bytes
        far = hard is None or soft is None or soft < hard // 4
        spread_s = self._settings.rekey_spread_s
        return spread_s if far else min(spread_s, SHORT_SPREAD_S)

    def receive(self, owner: _Owner, message: RekeyAnswer | RekeySwitched, now: float) -> None:
        """Process a message of a circuit's hop.

        Raises:
            NotAuthentic: its tag or share is invalid.
        """
        exchange = self._exchanges.get(owner)
        if exchange is None:
            self._board.count(ApmDrop.UNEXPECTED)
        elif isinstance(message, RekeyAnswer):
            self._on_answer(exchange, message, now)
        else:
            self._on_switched(exchange, message, now)

    def _on_answer(self, exchange: _SourceExchanges, answer: RekeyAnswer, now: float) -> None:
        attempt = exchange.attempt
        if attempt is None or attempt.offer.generation != answer.generation:
            self._board.count(_why_dropped(exchange, answer))
            return
        replaced = self._sas(exchange.owner)
        secrets = attempt.key.agree(replaced, attempt.offer, answer, answer.share)
        if not hmac.compare_digest(secrets.answer_tag, answer.tag):
            raise NotAuthentic("the hop does not have the new keys")
        agreed = self._agreed(replaced, attempt.offer, secrets)
        exchange.attempt = None
        if self._board.install_association(_inbound(agreed.sas)):
            exchange.agreed = agreed
            self._feed(exchange, SourceRekeyInput.ANSWERED, now)
        else:
            self._retired.discard(RetiredSa(spis=_spis(attempt.offer)))

    def _agreed(self, replaced: OnionSas, offer: RekeyOffer, secrets: RekeySecrets) -> _Agreed:
        sas = dataclasses.replace(
            secrets.renew(replaced, offer),
            own_spis=_spis(offer),
            lifetime=source_lifetime(self._settings, self._rng),
        )
        switch = RekeySwitch(offer.generation, secrets.switch_tag)
        return _Agreed(sas, switch, secrets.switched_tag)

    def _on_switched(self, exchange: _SourceExchanges, message: RekeySwitched, now: float) -> None:
        agreed = exchange.agreed
        if (
            agreed is None
            or exchange.replaced is None
            or agreed.switch.generation != message.generation
        ):
            self._board.count(_why_dropped(exchange, message))
        elif not hmac.compare_digest(agreed.switched_tag, message.tag):
            raise NotAuthentic("the hop does not have the new keys")
        else:
            self._feed(exchange, SourceRekeyInput.SWITCHED, now)

    # --- time ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return min(self._timers.next_deadline(), self._retired.next_deadline())

    def handle_deadline(self, now: float) -> None:
        """Take all steps of exchanges that are due, and remove expired retired SAs."""
        self._retired.handle_deadline(now)
        while (owner := self._timers.pop_due(now)) is not None:
            self._due(self._exchanges[owner], now)

    def _due(self, exchange: _SourceExchanges, now: float) -> None:
        if exchange.state is SourceRekeyState.SETTLED:
            self._feed(exchange, SourceRekeyInput.DUE, now)
        elif exchange.state is SourceRekeyState.AGREED:
            able = self._board.install_association(_outbound(present(exchange.agreed).sas))
            happened = SourceRekeyInput.SWITCH_DUE if able else SourceRekeyInput.CANNOT_SWITCH
            self._feed(exchange, happened, now)
        elif exchange.gives_up_at <= now:
            self._feed(exchange, SourceRekeyInput.GIVE_UP, now)
        else:
            self._feed(exchange, SourceRekeyInput.REPEAT_DUE, now)

    def _feed(self, exchange: _SourceExchanges, happened: SourceRekeyInput, now: float) -> None:
        action, exchange.state = required_step(TRANSITIONS, exchange.state, happened, "an exchange")
        action(self, exchange, now)

    # --- actions of the table ---

    def _nothing(self, exchange: _SourceExchanges, now: float) -> None:
        """Do nothing: the keys are being replaced already, or the new state records the input."""

    def _offer(self, exchange: _SourceExchanges, now: float) -> None:
        exchange.gives_up_at = now + self._settings.rekey_timeout_s
        exchange.pause_s = self._settings.rekey_retry_s
        self._try(exchange, now)

    def _repeat_offer(self, exchange: _SourceExchanges, now: float) -> None:
        self._try(exchange, now)

    def _try(self, exchange: _SourceExchanges, now: float) -> None:
        """Send the open offer, or a new one if there is none."""
        if exchange.attempt is None:
            exchange.attempt = self._new_attempt(exchange)
        if exchange.attempt is not None:
            self._say(exchange, exchange.attempt.offer)
        self._pause(exchange, now)

    def _new_attempt(self, exchange: _SourceExchanges) -> _Attempt | None:
        try:
            [(forward_spi, backward_spi)] = allocate_spis(1, self._board.spis)
        except LimitReached:
            return None  # an SPI may be free at the next repetition
        exchange.attempts += 1
        key = EphemeralKey(self._rng)
        offer = RekeyOffer(exchange.attempts, forward_spi, backward_spi, key.share)
        return _Attempt(offer, key)

    def _wait(self, exchange: _SourceExchanges, now: float) -> None:
        """Switch after a random time, so that the hop cannot measure the distance to the source.

        If the keys in use reach a soft limit meanwhile, a new and shorter time is drawn.
        """
        self._timers.set(exchange.owner, now + self._rng.random() * exchange.spread_s)

    def _offer_anew(self, exchange: _SourceExchanges, now: float) -> None:
        """Discard keys for which this host could not install the outbound SA, and offer again."""
        agreed, exchange.agreed = present(exchange.agreed), None
        self._retired.discard(RetiredSa((_inbound(agreed.sas),), agreed.sas.own_spis))
        self._try(exchange, now)

    def _switch(self, exchange: _SourceExchanges, now: float) -> None:
        """Send with the new keys from now on; the outbound SA is already installed."""
        circuit, position = self._circuit(exchange.owner)
        agreed, hops = present(exchange.agreed), list(circuit.ipsec.hops)
        exchange.replaced, hops[position - 1] = hops[position - 1], agreed.sas
        ipsec = dataclasses.replace(circuit.ipsec, hops=tuple(hops))
        self._connections.put_source(dataclasses.replace(circuit, ipsec=ipsec))
        exchange.gives_up_at = now + self._settings.rekey_timeout_s
        exchange.pause_s = self._settings.rekey_retry_s
        self._repeat_switch(exchange, now)

    def _repeat_switch(self, exchange: _SourceExchanges, now: float) -> None:
        self._say(exchange, present(exchange.agreed).switch)
        self._pause(exchange, now)

    def _settle(self, exchange: _SourceExchanges, now: float) -> None:
        """End an exchange; the replaced inbound SA still accepts packets that are under way."""
        self._timers.cancel(exchange.owner)
        replaced, exchange.replaced = present(exchange.replaced), None
        exchange.agreed = None
        self._retired.discard(RetiredSa((_outbound(replaced),)))
        retired = RetiredSa((_inbound(replaced),), replaced.own_spis)
        self._retired.add(exchange.owner, retired, now + self._settings.retired_sa_s)

    def _settle_and_offer(self, exchange: _SourceExchanges, now: float) -> None:
        self._settle(exchange, now)
        exchange.spread_s = 0.0
        self._offer(exchange, now)

    def _give_up(self, exchange: _SourceExchanges, now: float) -> None:
        number, position = exchange.owner
        self._lose(number, position, now)

    # --- parts ---

    def _pause(self, exchange: _SourceExchanges, now: float) -> None:
        self._timers.set(exchange.owner, min(now + exchange.pause_s, exchange.gives_up_at))
        exchange.pause_s = min(2 * exchange.pause_s, LONGEST_PAUSE_S)

    def _say(self, exchange: _SourceExchanges, message: RekeyOffer | RekeySwitch) -> None:
        sas = self._sas(exchange.owner)
        self._board.send([control_packet(sas.near, sas.hop, message)])

    def _circuit(self, owner: _Owner) -> tuple[OpenCircuit, int]:
        number, position = owner
        circuit = self._connections.source(number)
        if not isinstance(circuit, OpenCircuit):
            raise InternalError("an exchange of keys outlived its circuit")
        return circuit, position

    def _sas(self, owner: _Owner) -> OnionSas:
        circuit, position = self._circuit(owner)
        return circuit.ipsec.hops[position - 1]


def _why_dropped(exchange: _SourceExchanges, answer: RekeyAnswer | RekeySwitched) -> ApmDrop:
    """Distinguish an answer to a repeated request from an answer without a request."""
    return ApmDrop.LATE if answer.generation <= exchange.attempts else ApmDrop.UNEXPECTED


def _spis(offer: RekeyOffer) -> SpiPair:
    return offer.forward_spi, offer.backward_spi


def _outbound(sas: OnionSas) -> SecurityAssociation:
    return source_associations(sas)[0]


def _inbound(sas: OnionSas) -> SecurityAssociation:
    return source_associations(sas)[1]


_Step = tuple[Callable[[SourceRekeying, _SourceExchanges, float], None], SourceRekeyState]


def _table() -> Mapping[tuple[SourceRekeyState, SourceRekeyInput], _Step]:
    s, i, do = SourceRekeyState, SourceRekeyInput, SourceRekeying
    return MappingProxyType(
        {
            (s.SETTLED, i.DUE): (do._offer, s.OFFERED),
            #
            (s.OFFERED, i.DUE): (do._nothing, s.OFFERED),
            (s.OFFERED, i.ANSWERED): (do._wait, s.AGREED),
            (s.OFFERED, i.REPEAT_DUE): (do._repeat_offer, s.OFFERED),
            (s.OFFERED, i.GIVE_UP): (do._give_up, s.OFFERED),
            #
            (s.AGREED, i.DUE): (do._wait, s.AGREED),
            (s.AGREED, i.SWITCH_DUE): (do._switch, s.SWITCHING),
            (s.AGREED, i.CANNOT_SWITCH): (do._offer_anew, s.OFFERED),
            #
            (s.SWITCHING, i.DUE): (do._nothing, s.SWITCHING_AND_DUE),
            (s.SWITCHING, i.SWITCHED): (do._settle, s.SETTLED),
            (s.SWITCHING, i.REPEAT_DUE): (do._repeat_switch, s.SWITCHING),
            (s.SWITCHING, i.GIVE_UP): (do._give_up, s.SWITCHING),
            #
            (s.SWITCHING_AND_DUE, i.DUE): (do._nothing, s.SWITCHING_AND_DUE),
            (s.SWITCHING_AND_DUE, i.SWITCHED): (do._settle_and_offer, s.OFFERED),
            (s.SWITCHING_AND_DUE, i.REPEAT_DUE): (do._repeat_switch, s.SWITCHING_AND_DUE),
            (s.SWITCHING_AND_DUE, i.GIVE_UP): (do._give_up, s.SWITCHING_AND_DUE),
        }
    )


TRANSITIONS: Final = _table()
"""The action and the next state for each state and input; other pairs are impossible."""
