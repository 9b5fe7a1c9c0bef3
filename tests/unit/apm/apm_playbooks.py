"""Nodes that tests of circuits drive by hand, and the paper's names of their calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from apm_fakes import NOW, Actor, onions
from apm_lab import BOB_V4, lab_settings

import overlay.apm.onion
import overlay.apm.plan
import overlay.apm.relay
import overlay.apm.source
from overlay.apm.carrier import OnionCarrier
from overlay.apm.circuit_table import CircuitTable
from overlay.apm.datagram import UdpDatagram
from overlay.apm.relay import RelayCircuits
from overlay.selection.selector import MixPath


def cast(**settings: object) -> tuple[Actor, Actor, Actor]:
    # The exchange of new keys has playbooks of its own; here it begins years later.
    settings = {"rekey_spread_s": 3e7, **settings}
    alice, mix1, mix2 = (Actor(seed, lab_settings(**settings)) for seed in (1, 2, 3))
    alice.link_to(mix1)
    mix1.link_to(alice)
    mix1.link_to(mix2)
    mix2.link_to(mix1)
    return alice, mix1, mix2


def path(*hops: Actor) -> MixPath:
    return MixPath(tuple(hop.descriptor for hop in hops))


def pending(alice: Actor, *hops: Actor) -> tuple[int, list[UdpDatagram]]:
    """Alice has asked for a circuit and her onion has left."""
    number = alice.manager.anonymous_connection(path(*hops), BOB_V4, NOW)
    return number, onions(alice.sends())


def nears(alice: Actor) -> list[bytes]:
    return list(alice.backend.installed[0].local_addresses)


def record_calls(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write down what an actor calls of the paper's functions, by the paper's names."""
    calls: list[str] = []

    def watch(owner: object, name: str, called: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def recorded(*args: object, **kwargs: object) -> object:
            calls.append(called(*args))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    for owner, name, paper in (
        (actor.spis, "allocate", "nitcm_generate_spi"),
        (overlay.apm.plan, "nesm_generate_sym_key", "nesm_generate_sym_key"),
        (overlay.apm.source, "construct_onion", "nesm_construct_onion"),
        (overlay.apm.onion, "nesm_encrypt_data", "nesm_encrypt_data"),
        (RelayCircuits, "receive_onion_message", "apasm_receive_onion_msg"),
        (overlay.apm.relay, "extract_onion_info", "nesm_extract_onion_info"),
        (overlay.apm.onion, "nesm_decrypt_data", "nesm_decrypt_data"),
        (CircuitTable, "request_ipsec_info", "nitcm_request_ipsec_info"),
        (overlay.apm.source, "ipsec_translator", "nitcm_ipsec_translator"),
        (overlay.apm.relay, "ipsec_translator", "nitcm_ipsec_translator"),
        (actor.backend, "install", "enforcement"),
        (OnionCarrier, "send", "apasm_send_onion_msg"),
    ):
        watch(owner, name, lambda *_, paper=paper: paper)
    for name in ("put_source", "put_hop"):
        watch(CircuitTable, name, lambda _, circuit: f"soft state: {type(circuit).__name__}")
    calls.clear()
    return calls


def finish(actor: Actor, now: float) -> None:
    """Run the timers until nothing but replay and carrier memory is left."""
    for _ in range(20):
        now = min(max(now, actor.manager.next_deadline()), now + 2.0)
        actor.manager.handle_deadline(now)


def at_relay() -> tuple[Actor, Actor, Actor, UdpDatagram]:
    alice, mix1, mix2 = cast()
    _, [onion] = pending(alice, mix1, mix2)
    return alice, mix1, mix2, onion
