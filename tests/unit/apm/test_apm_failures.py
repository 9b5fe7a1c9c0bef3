import pytest

from overlay.apm.control import RefuseReason, TeardownReason
from overlay.apm.failures import confirmation_missing, link_missing, refusal


@pytest.mark.parametrize(
    ("position", "reason", "words"),
    [
        (1, RefuseReason.LIMIT, "hop 1 of 3 refused the circuit: it carries as many"),
        (2, RefuseReason.UNREACHABLE, "hop 2 of 3 .* hop 3 [(]the exit[)] did not answer it"),
        (1, RefuseReason.UNREACHABLE, "hop 1 of 3 .* hop 2 did not answer it"),
        (3, RefuseReason.NOT_OFFERED, "hop 3 of 3 .* no exit for this IP version"),
        (2, TeardownReason.NEXT_HOP_LOST, "hop 3 [(]the exit[)] did not answer it"),
        (1, TeardownReason.SHUTDOWN, "it stops"),
    ],
)
def test_refusal_names_the_hop_and_the_reason(position, reason, words):
    error = refusal(position, 3, reason)
    assert error.hop == position
    assert error.reason == reason.name
    with pytest.raises(type(error), match=words):
        raise error


@pytest.mark.parametrize("reason", [*RefuseReason, *TeardownReason])
@pytest.mark.parametrize("position", [1, 2, 3])
def test_every_reason_has_its_words(reason, position):
    assert str(refusal(position, 3, reason)).endswith(".")


def test_silence_is_told_with_the_setting_that_bounds_it():
    assert "15 s ([apm] setup_timeout_s)" in str(confirmation_missing(15.0, 3))
    assert link_missing().silent_hop == 1
