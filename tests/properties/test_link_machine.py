"""Every state of a link crossed with every input, from real messages."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.link.machine import TRANSITIONS
from overlay.link.states import LinkInput, LinkState

HOLDS = {
    state: frozenset(() if state is LinkState.CLOSED else state.value.split(", "))
    for state in LinkState
}
NEEDS = {
    LinkInput.RESPONSE: "handshake",
    LinkInput.RETRY_DUE: "handshake",
    LinkInput.GIVE_UP: "handshake",
    LinkInput.PROVEN: "offered",
    LinkInput.OFFER_LOST: "offered",
    LinkInput.CURRENT_LOST: "current",
}


def possible(state: LinkState, happened: LinkInput) -> bool:
    holds = HOLDS[state]
    if happened in NEEDS:
        return NEEDS[happened] in holds
    if happened is LinkInput.REKEY_DUE:
        return state is LinkState.UP
    if happened is LinkInput.SILENT:
        return state is LinkState.REKEYING
    if happened is LinkInput.CLOSE:
        return state is not LinkState.CLOSED
    if happened is LinkInput.OUTRANKED:
        return not {"handshake", "offered"} <= holds  # the outranked side has yielded by then
    return True


@given(st.sampled_from(list(LinkState)), st.sampled_from(list(LinkInput)))
@settings(max_examples=400)
def test_the_table_answers_exactly_what_can_happen(state, happened):
    assert ((state, happened) in TRANSITIONS) == possible(state, happened)


@given(st.sampled_from(sorted(TRANSITIONS, key=str)))
@settings(max_examples=200)
def test_a_transition_changes_what_is_held_as_its_input_says(step):
    _state, happened = step
    after = HOLDS[TRANSITIONS[step][1]]
    if happened in (LinkInput.OFFER, LinkInput.OUTRANKED):
        assert "offered" in after
    if happened is LinkInput.OUTRANKED:
        assert "handshake" not in after
    if happened in (LinkInput.RESPONSE, LinkInput.PROVEN):
        assert after == {"current"}
    if happened is LinkInput.GIVE_UP:
        assert "handshake" not in after
    if happened is LinkInput.OFFER_LOST:
        assert "offered" not in after
    if happened is LinkInput.CURRENT_LOST:
        assert "current" not in after
    if happened is LinkInput.CLOSE:
        assert after == frozenset()
