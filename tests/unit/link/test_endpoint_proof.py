"""Where a peer is: what an offered pair's state machine believes."""

from __future__ import annotations

import math
from random import Random

import pytest
from link_lab import NOW

from overlay.addresses import Endpoint
from overlay.link.endpoint_proof import (
    TOKEN_BYTES,
    TRANSITIONS,
    EndpointProof,
    ProofInput,
    ProofState,
    names_endpoint,
)
from overlay.link.settings import LinkSettings

HERE, THERE, EVIL = (Endpoint(f"9.9.9.{number}", 4500) for number in range(3))
SETTINGS = LinkSettings()


def new_link(source: Endpoint = HERE) -> EndpointProof:
    return EndpointProof(SETTINGS, Random(1), None, source)


def link_at(in_use: Endpoint, source: Endpoint | None = None) -> EndpointProof:
    return EndpointProof(SETTINGS, Random(1), in_use, source or in_use)


def tokens(proof: EndpointProof) -> dict[Endpoint, bytes]:
    return {endpoint: token for token, endpoint in proof.take_challenges()}


def test_a_confirm_from_where_the_only_initiation_came_from_is_enough():
    proof = new_link()
    proof.confirmed(HERE, NOW)
    assert (proof.settled, proof.deadline) == (HERE, math.inf)
    assert proof.take_challenges() == []


def test_a_confirm_from_elsewhere_gets_one_challenge_and_no_more():
    proof = new_link()
    for _ in range(3):
        proof.confirmed(EVIL, NOW)
        assert list(tokens(proof)) == [EVIL]
    assert proof.settled is None
    proof.confirmed(HERE, NOW)
    assert proof.settled == HERE


def test_where_initiations_came_from_two_endpoints_each_confirm_is_challenged():
    proof = new_link(EVIL)
    proof.initiated_also_from(HERE)
    proof.confirmed(EVIL, NOW)
    proof.confirmed(HERE, NOW)
    asked = tokens(proof)
    assert set(asked) == {EVIL, HERE}
    assert proof.settled is None
    assert proof.echoed(asked[HERE], HERE, NOW)
    assert proof.settled == HERE


@pytest.mark.parametrize("made", [new_link(EVIL), link_at(HERE)])
def test_a_token_counts_only_from_the_endpoint_that_it_was_sent_to(made):
    made.initiated_also_from(THERE)
    made.confirmed(EVIL, NOW)
    token = tokens(made)[EVIL]
    assert len(token) == TOKEN_BYTES
    for source in (HERE, THERE, Endpoint(EVIL.host, EVIL.port + 1)):
        assert not made.echoed(token, source, NOW)
    assert made.settled is None


def test_no_echo_counts_before_a_challenge():
    assert not new_link().echoed(bytes(TOKEN_BYTES), HERE, NOW)


def test_a_link_stays_where_the_peer_answers_although_it_answers_elsewhere_as_well():
    proof = link_at(HERE, source=EVIL)
    proof.confirmed(EVIL, NOW)
    asked = tokens(proof)
    assert set(asked) == {EVIL, HERE}
    assert proof.echoed(asked[EVIL], EVIL, NOW)
    assert proof.settled is None
    assert proof.echoed(asked[HERE], HERE, NOW + 2.9)
    assert (proof.settled, proof.deadline) == (HERE, math.inf)


def test_a_link_moves_when_the_endpoint_in_use_is_silent_and_another_is_proved():
    proof = link_at(HERE)
    proof.confirmed(THERE, NOW)
    proof.echoed(tokens(proof)[THERE], THERE, NOW)
    asked = 0
    while proof.settled is None:
        now = proof.deadline
        assert NOW < now <= NOW + SETTINGS.endpoint_silence_s
        proof.handle_deadline(now)
        assert proof.deadline > now
        asked += len(proof.take_challenges())
    assert (proof.settled, asked) == (THERE, 5)
    assert now == NOW + SETTINGS.endpoint_silence_s


def test_without_an_echo_from_elsewhere_a_silent_peer_does_not_move():
    proof = link_at(HERE)
    proof.confirmed(EVIL, NOW)
    while proof.deadline < math.inf:
        proof.handle_deadline(proof.deadline)
    assert (proof.settled, proof.state) == (None, ProofState.QUIET)
    proof.confirmed(THERE, NOW + 60)
    assert THERE in tokens(proof), "and it can be doubted again"
    assert proof.deadline < math.inf


def test_an_echo_that_comes_too_late_changes_nothing():
    proof = link_at(HERE)
    proof.confirmed(EVIL, NOW)
    token = tokens(proof)[EVIL]
    proof.confirmed(HERE, NOW)
    assert proof.echoed(token, EVIL, NOW), "too late"
    proof.handle_deadline(NOW + 60)
    assert (proof.settled, proof.state) == (HERE, ProofState.QUIET)


def test_what_the_peer_knows_to_be_its_own_address_wins_at_any_time():
    """The observer was faster with all that it copied and passed on."""
    proof = new_link(EVIL)
    proof.confirmed(EVIL, NOW)
    assert proof.settled == EVIL
    proof.confirmed(HERE, NOW + 1)
    asked = tokens(proof)
    assert set(asked) == {EVIL, HERE}
    assert names_endpoint(asked[HERE], HERE)
    assert not names_endpoint(asked[EVIL], HERE)
    proof.echoed(asked[EVIL], EVIL, NOW + 1)
    assert proof.settled == EVIL
    proof.echoed(asked[HERE], HERE, NOW + 2, own_address=True)
    assert (proof.settled, proof.deadline) == (HERE, math.inf)
    proof.confirmed(EVIL, NOW + 3)
    proof.echoed(tokens(proof)[EVIL], EVIL, NOW + 3)
    assert proof.settled == HERE


@pytest.mark.parametrize("host", ["9.9.9.9", "2a00::9"])
def test_a_token_names_host_and_port(host):
    proof = new_link()
    proof.confirmed(Endpoint(host, 4500), NOW)
    [(token, _)] = proof.take_challenges()
    assert names_endpoint(token, Endpoint(host, 4500))
    assert not names_endpoint(token, Endpoint(host, 4501))
    assert not names_endpoint(token, Endpoint("9.9.9.8", 4500))


def test_no_confirm_and_no_echo_but_of_an_own_address_moves_a_link_at_once():
    moves = {
        happened for (_, happened), (action, _) in TRANSITIONS.items() if action.__name__ == "_move"
    }
    assert moves == {ProofInput.SILENT}
    for state in ProofState:
        assert TRANSITIONS[state, ProofInput.OWN_ADDRESS][0].__name__ == "_settle"
