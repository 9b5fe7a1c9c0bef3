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


def asked_until_settled(proof: EndpointProof, place: Endpoint) -> tuple[int, float]:
    """Let time pass until the link is at ``place``; return how often others were asked."""
    asked, now = 0, NOW
    while proof.settled != place:
        now = proof.deadline
        assert now < math.inf
        proof.handle_deadline(now)
        assert proof.deadline > now
        asked += sum(endpoint != place for _, endpoint in proof.take_challenges())
    return asked, now - NOW


@pytest.mark.parametrize("round_trip_s", [0.0, 0.02, 0.3])
def test_a_link_moves_soon_after_another_endpoint_is_proved_and_the_one_in_use_is_not(
    round_trip_s,
):
    proof = link_at(HERE)
    proof.seen(THERE, NOW)
    token = tokens(proof)[THERE]
    while proof.deadline < NOW + round_trip_s:
        proof.handle_deadline(proof.deadline)
    assert proof.settled is None
    proof.echoed(token, THERE, NOW + round_trip_s)
    asked, after_s = asked_until_settled(proof, THERE)
    assert asked >= 3
    assert after_s <= 1.5 * round_trip_s + 0.13


def test_a_link_goes_back_at_once_if_the_former_endpoint_answers_after_all():
    """Most answers of the endpoint in use are lost, and an observer forwards the tokens."""
    proof = link_at(HERE)
    proof.seen(EVIL, NOW)
    proof.echoed(tokens(proof)[EVIL], EVIL, NOW)
    asked_until_settled(proof, EVIL)
    token = None
    while token is None:
        now = proof.deadline
        proof.handle_deadline(now)
        token = tokens(proof).get(HERE)
    assert proof.echoed(token, HERE, now + 0.05)
    assert (proof.settled, proof.state) == (HERE, ProofState.QUIET)


def observed() -> EndpointProof:
    """A pair of which it is known that an observer forwards its tokens."""
    proof = link_at(HERE)
    proof.seen(EVIL, NOW - 9)
    asked = tokens(proof)
    proof.echoed(asked[EVIL], EVIL, NOW - 9)
    proof.echoed(asked[HERE], HERE, NOW - 8.99)
    assert proof.settled == HERE
    return proof


def test_an_observer_that_lost_once_needs_the_whole_silence_of_the_endpoint_in_use():
    proof = observed()
    proof.seen(EVIL, NOW)
    proof.echoed(tokens(proof)[EVIL], EVIL, NOW)
    asked, after_s = asked_until_settled(proof, EVIL)
    assert asked >= 30
    assert after_s >= SETTINGS.endpoint_silence_s


@pytest.mark.parametrize("seed", range(20))
def test_a_flood_that_drops_half_of_all_datagrams_moves_no_link(seed):
    """The observer forwards all, without loss; of challenge and answer half each are lost."""
    rng, proof = Random(seed), observed()
    now, until, moves = NOW, NOW + 60, 0
    while now < until:
        proof.seen(EVIL, now)
        for token, endpoint in proof.take_challenges():
            if endpoint == EVIL or rng.random() < 0.25:
                proof.echoed(token, endpoint, now)
        moves += proof.settled == EVIL
        now = min(max(proof.deadline, now + 0.001), now + 0.2)
        proof.handle_deadline(now)
    assert moves == 0


def test_a_recorded_echo_moves_nothing_however_silent_the_peer_is():
    proof = link_at(HERE)
    proof.seen(THERE, NOW)
    first = tokens(proof)
    assert proof.echoed(first[HERE], HERE, NOW + 0.01)
    for step in range(1, 100):
        proof.seen(THERE, NOW + step)
        assert tokens(proof)[THERE] != first[THERE]
        proof.echoed(first[THERE], THERE, NOW + step)
        while proof.deadline < NOW + step + 1:
            proof.handle_deadline(proof.deadline)
    assert proof.settled == HERE


def test_a_token_counts_once_and_for_some_seconds_only():
    proof = new_link()
    proof.confirmed(EVIL, NOW)
    proof.confirmed(EVIL, NOW)
    [(one, _), (other, _)] = proof.take_challenges()
    assert one != other
    assert not proof.echoed(one, EVIL, NOW + SETTINGS.endpoint_silence_s + 0.1)
    assert proof.echoed(other, EVIL, NOW + 1)
    assert not proof.echoed(other, EVIL, NOW + 1)


def test_challenges_to_unproved_endpoints_are_few_and_remembered_within_bounds():
    proof = link_at(HERE)
    drawn = 0
    for step in range(1000):
        proof.seen(EVIL, NOW + step / 1000)
        drawn += sum(endpoint == EVIL for _, endpoint in proof.take_challenges())
    assert drawn <= 21
    for port in range(1, 2000):
        proof.seen(Endpoint("6.6.6.6", port), NOW + 1)
    asked = [token for token, endpoint in proof.take_challenges() if endpoint != HERE]
    assert (
        sum(proof.echoed(t, Endpoint("6.6.6.6", 1 + n), NOW + 1) for n, t in enumerate(asked)) < 65
    )


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
    assert proof.echoed(token, EVIL, NOW), "in time, but the endpoint in use was faster"
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
