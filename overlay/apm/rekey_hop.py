"""A hop's side of REKEY: answer, take the new keys in, switch when the source has.

::

    OFFER  -> new inbound SA, ANSWER      SWITCH -> new outbound SA, SWITCHED, old SAs linger

The source alone begins and repeats: a hop has no timer but the one that ends lingering. What
was answered and not switched to stays until a newer offer takes its place or the circuit
ends, for the source may send on it at any time from the answer on.
:data:`TRANSITIONS` is the whole protocol at a hop.
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

from overlay.apm.circuit_table import CircuitTable, InstalledHopCircuit, with_renewed_sas
from overlay.apm.circuits import OnionSas
from overlay.apm.control import RekeyAnswer, RekeyOffer, RekeySwitch, RekeySwitched
from overlay.apm.rekey_keys import EphemeralKey
from overlay.apm.rekey_states import HopRekeyInput, HopRekeyState, present
from overlay.apm.retired_sas import RetiredSa, RetiredSas
from overlay.apm.switchboard import Switchboard, control_packet
from overlay.apm.translator import hop_associations
from overlay.errors import (
    InternalError,
    LimitReached,
    Malformed,
    NotAuthentic,
    Replayed,
)
from overlay.ipsec.interface import SaIdentity
from overlay.work_budget import Work

__all__ = ["TRANSITIONS", "HopRekeying"]


@dataclass(frozen=True, slots=True)
class _Answered:
    """An offer that was answered: the new SAs, of which the inbound one is installed."""

    offer: RekeyOffer
    answer: RekeyAnswer
    sas: OnionSas
    switch_tag: bytes
    switched: RekeySwitched


@dataclass(slots=True, eq=False)
class _Exchange:
    """A circuit's exchanges here: one that is open, one whose last word may have been lost."""

    number: int
    state: HopRekeyState = HopRekeyState.SETTLED
    tried_at: float = -math.inf
    answered: _Answered | None = None
    switched: _Answered | None = None


@dataclass(frozen=True, slots=True)
class _Cause:
    """What comes with an input."""

    circuit: InstalledHopCircuit
    now: float
    fresh: _Answered | None = None


class HopRekeying:
    """Owner of the exchanges of others' circuits; a settled circuit has none.

    It alone replaces the SAs of an installed circuit. Bounded for each circuit: the SAs in
    use, one new inbound SA, and :data:`~overlay.apm.retired_sas.MAX_LINGERING` replaced pairs;
    one agreement, or attempt at one, in ``rekey_pause_s``.
    """

    def __init__(self, switchboard: Switchboard, connections: CircuitTable, rng: Random) -> None:
        self._board = switchboard
        self._connections = connections
        self._rng = rng
        self._settings = switchboard.settings
        self._exchanges: dict[int, _Exchange] = {}
        self._lingering: RetiredSas[int] = RetiredSas(
            switchboard.backend, connections.release_forward_spi
        )

    def __len__(self) -> int:
        """Return how many circuits have an exchange under way or failed, or replaced SAs."""
        return len(self._exchanges)

    def receive(
        self, circuit: InstalledHopCircuit, message: RekeyOffer | RekeySwitch, now: float
    ) -> None:
        """Take a message of a circuit's source.

        Raises:
            Replayed, Malformed, Refused, NotAuthentic, LimitReached: it is none that fits; no
                answer.
        """
        exchange = self._exchanges.get(circuit.number) or _Exchange(circuit.number)
        if isinstance(message, RekeyOffer):
            self._on_offer(exchange, circuit, message, now)
        else:
            self._on_switch(exchange, circuit, message, now)

    def _on_offer(
        self, exchange: _Exchange, circuit: InstalledHopCircuit, offer: RekeyOffer, now: float
    ) -> None:
        answered = exchange.answered
        if answered is not None and answered.offer == offer:
            self._feed(exchange, HopRekeyInput.OFFER_AGAIN, _Cause(circuit, now))
            return
        latest = circuit.sas.generation if answered is None else answered.offer.generation
        if offer.generation <= latest:
            raise Replayed("an offer of keys that is older than the latest")
        if now < exchange.tried_at + self._settings.rekey_pause_s:
            raise LimitReached("the source wants new keys too often")
        if offer.backward_spi == circuit.sas.backward_spi:
            raise Malformed("new keys need an SPI of their own")
        if not self._board.afford(Work.REKEY, circuit.previous, now):
            raise LimitReached("strangers have used up this second's CPU time")
        # Recorded before it is known to fail, because a failure costs as much.
        self._exchanges[circuit.number], exchange.tried_at = exchange, now
        fresh = self._agree(circuit.sas, offer)
        if not self._board.install_association(hop_associations(fresh.sas)[0]):
            self._connections.release_forward_spi(fresh.sas.forward_spi)
            raise LimitReached("this host could not install new keys")
        self._feed(exchange, HopRekeyInput.OFFER, _Cause(circuit, now, fresh))

    def _agree(self, replaced: OnionSas, offer: RekeyOffer) -> _Answered:
        """Draw our part and derive the keys.

        Raises:
            NotAuthentic: the source's share contributes nothing.
            Refused: another SA towards us has the forward SPI.
        """
        key = EphemeralKey(self._rng)
        unproven = RekeyAnswer(offer.generation, key.share)
        secrets = key.agree(replaced, offer, unproven, offer.share)
        self._connections.claim_forward_spi(offer.forward_spi)
        return _Answered(
            offer=offer,
            answer=dataclasses.replace(unproven, tag=secrets.answer_tag),
            sas=secrets.renew(replaced, offer),
            switch_tag=secrets.switch_tag,
            switched=RekeySwitched(offer.generation, secrets.switched_tag),
        )

    def _on_switch(
        self, exchange: _Exchange, circuit: InstalledHopCircuit, switch: RekeySwitch, now: float
    ) -> None:
        for meant, happened in (
            (exchange.answered, HopRekeyInput.SWITCH),
            (exchange.switched, HopRekeyInput.SWITCH_AGAIN),
        ):
            if meant is None or meant.offer.generation != switch.generation:
                continue
            if not hmac.compare_digest(meant.switch_tag, switch.tag):
                raise NotAuthentic("the source does not have the new keys")
            if happened is HopRekeyInput.SWITCH and not self._board.install_association(
                hop_associations(meant.sas)[1]
            ):
                raise LimitReached("this host could not install new keys")
            self._feed(exchange, happened, _Cause(circuit, now))
            return
        raise Replayed("the source switches to keys that nobody agreed to")

    def _feed(self, exchange: _Exchange, happened: HopRekeyInput, cause: _Cause) -> None:
        step = TRANSITIONS.get((exchange.state, happened))
        if step is None:
            raise InternalError(f"an exchange in state {exchange.state.name} met {happened.name}")
        action, exchange.state = step
        action(self, exchange, cause)

    # --- actions of the table ---

    def _answer(self, exchange: _Exchange, cause: _Cause) -> None:
        """Receive with the new keys; those of an offer that came to nothing go."""
        if exchange.answered is not None:
            self._lingering.discard(_new_inbound(exchange.answered))
        exchange.answered = present(cause.fresh)
        self._answer_again(exchange, cause)

    def _answer_again(self, exchange: _Exchange, cause: _Cause) -> None:
        self._say(cause.circuit, present(exchange.answered).answer)

    def _switch(self, exchange: _Exchange, cause: _Cause) -> None:
        """Send with the new keys; the outbound SA is installed."""
        replaced, answered = cause.circuit.sas, present(exchange.answered)
        exchange.answered, exchange.switched = None, answered
        self._connections.put_hop(with_renewed_sas(cause.circuit, answered.sas))
        outgrown = RetiredSa(hop_associations(replaced), (replaced.forward_spi,))
        until = cause.now + self._settings.retired_sa_s
        self._lingering.add(exchange.number, outgrown, until)
        self._switch_again(exchange, cause)

    def _switch_again(self, exchange: _Exchange, cause: _Cause) -> None:
        self._say(cause.circuit, present(exchange.switched).switched)

    # --- time and the end ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._lingering.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Remove what has lingered; then the source has no reason to repeat its last word."""
        for number in self._lingering.handle_deadline(now):
            exchange = self._exchanges.get(number)
            if exchange is None or self._lingering.holds(number):
                continue
            exchange.switched = None
            if exchange.state is HopRekeyState.SETTLED:
                del self._exchanges[number]

    def unproven(self, number: int) -> SaIdentity | None:
        """Return the new inbound SA of a circuit whose source has not switched, if there is one."""
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.answered is None:
            return None
        return hop_associations(exchange.answered.sas)[0].identity

    def end(self, number: int) -> RetiredSa:
        """Forget a circuit; return what is installed for it besides the SAs in use.

        The SPIs are free at once, as the circuit's own are.
        """
        exchange = self._exchanges.pop(number, None)
        if exchange is None:
            return RetiredSa()
        outgrown = self._lingering.take(number)
        if exchange.answered is not None:
            outgrown += _new_inbound(exchange.answered)
        for spi in outgrown.spis:
            self._connections.release_forward_spi(spi)
        return RetiredSa(outgrown.associations)

    def _say(self, circuit: InstalledHopCircuit, message: RekeyAnswer | RekeySwitched) -> None:
        self._board.send([control_packet(self._board.own, circuit.sas.near, message)])


def _new_inbound(answered: _Answered) -> RetiredSa:
    return RetiredSa((hop_associations(answered.sas)[0],), (answered.sas.forward_spi,))


_Step = tuple[Callable[[HopRekeying, _Exchange, _Cause], None], HopRekeyState]


def _table() -> Mapping[tuple[HopRekeyState, HopRekeyInput], _Step]:
    s, i, do = HopRekeyState, HopRekeyInput, HopRekeying
    return MappingProxyType(
        {
            (s.SETTLED, i.OFFER): (do._answer, s.ANSWERED),
            (s.SETTLED, i.SWITCH_AGAIN): (do._switch_again, s.SETTLED),
            #
            (s.ANSWERED, i.OFFER): (do._answer, s.ANSWERED),
            (s.ANSWERED, i.OFFER_AGAIN): (do._answer_again, s.ANSWERED),
            (s.ANSWERED, i.SWITCH): (do._switch, s.SETTLED),
            (s.ANSWERED, i.SWITCH_AGAIN): (do._switch_again, s.ANSWERED),
        }
    )


TRANSITIONS: Final = _table()
"""What each input does in each state; a pair that is missing cannot happen."""
