"""The hop's side of REKEY: answer an offer, and switch to the new keys after the source.

::

    OFFER  -> new inbound SA, ANSWER      SWITCH -> new outbound SA, SWITCHED, old SAs retire

Only the source starts an exchange and repeats messages. The only timer of a hop ends retired SAs.
An answered offer without a switch stays until a newer offer replaces it or the circuit ends. The
source may use its keys at any time after the answer.

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
    LimitReached,
    Malformed,
    NotAuthentic,
    Replayed,
)
from overlay.ipsec.interface import SaIdentity
from overlay.transitions import required_step
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
class _HopExchanges:
    """The exchanges of a circuit: an open one, and one whose SWITCHED may have been lost."""

    number: int
    state: HopRekeyState = HopRekeyState.SETTLED
    tried_at: float = -math.inf
    answered: _Answered | None = None
    switched: _Answered | None = None


@dataclass(frozen=True, slots=True)
class _Cause:
    """The arguments of an input."""

    circuit: InstalledHopCircuit
    now: float
    fresh: _Answered | None = None


class HopRekeying:
    """The exchanges of circuits of other nodes; a settled circuit has none.

    No other class replaces the SAs of an installed circuit. Each circuit has the SAs in use, at
    most one new inbound SA and :data:`~overlay.apm.retired_sas.MAX_RETIRED` retired pairs. It
    gets at most one key agreement, successful or not, in ``rekey_pause_s`` seconds.
    """

    def __init__(self, switchboard: Switchboard, connections: CircuitTable, rng: Random) -> None:
        self._board = switchboard
        self._connections = connections
        self._rng = rng
        self._settings = switchboard.settings
        self._exchanges: dict[int, _HopExchanges] = {}
        self._retired: RetiredSas[int] = RetiredSas(
            switchboard.backend, connections.release_forward_spi
        )

    def __len__(self) -> int:
        """Return the number of circuits with an open or failed exchange or with retired SAs."""
        return len(self._exchanges)

    def receive(
        self, circuit: InstalledHopCircuit, message: RekeyOffer | RekeySwitch, now: float
    ) -> None:
        """Process a message of a circuit's source.

        Raises:
            Replayed, Malformed, Refused, NotAuthentic, LimitReached: the message is dropped
                without an answer.
        """
        exchange = self._exchanges.get(circuit.number) or _HopExchanges(circuit.number)
        if isinstance(message, RekeyOffer):
            self._on_offer(exchange, circuit, message, now)
        else:
            self._on_switch(exchange, circuit, message, now)

    def _on_offer(
        self, exchange: _HopExchanges, circuit: InstalledHopCircuit, offer: RekeyOffer, now: float
    ) -> None:
        answered = exchange.answered
        if answered is not None and answered.offer == offer:
            self._feed(exchange, HopRekeyInput.OFFER_AGAIN, _Cause(circuit, now))
            return
        latest = circuit.sas.generation if answered is None else answered.offer.generation
        if offer.generation <= latest:
            raise Replayed("the offer of keys is older than the latest one")
        if now < exchange.tried_at + self._settings.rekey_pause_s:
            raise LimitReached("the source requests new keys too often")
        if offer.backward_spi == circuit.sas.backward_spi:
            raise Malformed("new keys need an SPI of their own")
        if not self._board.afford(Work.REKEY, circuit.previous, now):
            raise LimitReached("the CPU time for requests of other nodes is used up")
        # Record the attempt before the key agreement, because a failed one costs as much CPU time.
        self._exchanges[circuit.number], exchange.tried_at = exchange, now
        fresh = self._agree(circuit.sas, offer)
        if not self._board.install_association(hop_associations(fresh.sas)[0]):
            self._connections.release_forward_spi(fresh.sas.forward_spi)
            raise LimitReached("this host could not install new keys")
        self._feed(exchange, HopRekeyInput.OFFER, _Cause(circuit, now, fresh))

    def _agree(self, replaced: OnionSas, offer: RekeyOffer) -> _Answered:
        """Draw the key share of this hop and derive the new keys.

        Raises:
            NotAuthentic: the source's share is a point of small order.
            Refused: another SA towards this node has the forward SPI.
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
        self, exchange: _HopExchanges, circuit: InstalledHopCircuit, switch: RekeySwitch, now: float
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
        raise Replayed("the source switches to keys that were not agreed")

    def _feed(self, exchange: _HopExchanges, happened: HopRekeyInput, cause: _Cause) -> None:
        action, exchange.state = required_step(TRANSITIONS, exchange.state, happened, "an exchange")
        action(self, exchange, cause)

    # --- actions of the table ---

    def _answer(self, exchange: _HopExchanges, cause: _Cause) -> None:
        """Accept an offer; discard the keys of an earlier offer without a switch."""
        if exchange.answered is not None:
            self._retired.discard(_new_inbound(exchange.answered))
        exchange.answered = present(cause.fresh)
        self._answer_again(exchange, cause)

    def _answer_again(self, exchange: _HopExchanges, cause: _Cause) -> None:
        self._say(cause.circuit, present(exchange.answered).answer)

    def _switch(self, exchange: _HopExchanges, cause: _Cause) -> None:
        """Send with the new keys; the outbound SA is already installed."""
        replaced, answered = cause.circuit.sas, present(exchange.answered)
        exchange.answered, exchange.switched = None, answered
        self._connections.put_hop(with_renewed_sas(cause.circuit, answered.sas))
        retired = RetiredSa(hop_associations(replaced), (replaced.forward_spi,))
        until = cause.now + self._settings.retired_sa_s
        self._retired.add(exchange.number, retired, until)
        self._switch_again(exchange, cause)

    def _switch_again(self, exchange: _HopExchanges, cause: _Cause) -> None:
        self._say(cause.circuit, present(exchange.switched).switched)

    # --- time and the end ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return self._retired.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Remove expired retired SAs; the source does not repeat SWITCH after that time."""
        for number in self._retired.handle_deadline(now):
            exchange = self._exchanges.get(number)
            if exchange is None or self._retired.holds(number):
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
        """Remove a circuit; return the SAs that are installed besides the SAs in use.

        Their SPIs are released at once, like those of the SAs in use.
        """
        exchange = self._exchanges.pop(number, None)
        if exchange is None:
            return RetiredSa()
        retired = self._retired.take(number)
        if exchange.answered is not None:
            retired += _new_inbound(exchange.answered)
        for spi in retired.spis:
            self._connections.release_forward_spi(spi)
        return RetiredSa(retired.associations)

    def _say(self, circuit: InstalledHopCircuit, message: RekeyAnswer | RekeySwitched) -> None:
        self._board.send([control_packet(self._board.own, circuit.sas.near, message)])


def _new_inbound(answered: _Answered) -> RetiredSa:
    return RetiredSa((hop_associations(answered.sas)[0],), (answered.sas.forward_spi,))


_Step = tuple[Callable[[HopRekeying, _HopExchanges, _Cause], None], HopRekeyState]


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
"""The action and the next state for each state and input; other pairs are impossible."""
