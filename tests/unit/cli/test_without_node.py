"""What commands say when no node answers, or when a node protects nothing."""

from dataclasses import replace

import pytest

from overlay.cli import without_node
from overlay.cli.blocked import stop_text
from overlay.cli.main import main
from overlay.cli.reports import path_text, paths_text
from overlay.control.service import PathReport, StopReport

SOCKET = "/nowhere/at/all"


@pytest.mark.parametrize(
    ("blocked", "owned", "said"),
    [
        (2, False, "2 destinations on this host are blocked by a node that ended"),
        (1, True, "another node runs on this host and blocks or carries 1 destination: name its"),
    ],
)
def test_a_wrong_socket_is_told_from_a_node_that_ended(monkeypatch, capsys, blocked, owned, said):
    monkeypatch.setattr(without_node, "blocked_here", lambda: [None] * blocked)
    monkeypatch.setattr(without_node, "kill_switch_is_owned", lambda: owned)
    assert main(["status", "--socket", SOCKET]) == 1
    assert said in capsys.readouterr().err


def test_what_is_not_protected_is_told_in_every_list():
    def path(number, reason):
        return PathReport(
            number, "192.0.2.7/32", "rebuilding", (), (), None, 1.0, "uniform", 1180,
            unprotected=reason,
        )  # fmt: skip

    listed = paths_text([path(1, "no rights."), path(2, ""), path(3, "no rights.")])
    assert listed.count("rebuilding, NOT PROTECTED") == 2
    assert listed.splitlines()[-1] == (
        "NOT PROTECTED, packets can leave directly: path 1, 3. The node tries again. Reason: "
        "no rights."
    )
    assert "NOT PROTECTED:  no rights." in path_text(path(1, "no rights."))
    assert "NOT" not in paths_text([path(2, "")]) + path_text(path(2, ""))


def test_path_that_is_rebuilding_says_why_and_when_it_is_tried_again():
    path = PathReport(
        3, "192.0.2.7/32", "rebuilding", (), (), None, 1.0, "uniform", 1180,
        trouble="hop 2 of 3 refused the circuit: it stops", attempts=2, next_try_s=4.9, takeovers=1,
    )  # fmt: skip
    why = "hop 2 of 3 refused the circuit: it stops; 2 attempts failed; the next attempt follows"
    assert paths_text([path]).splitlines()[-1] == f"Path 3 is rebuilding: {why} in 5 s."
    assert f"because:        {why}" in path_text(path)
    assert "none; took over once" in path_text(path)
    ready = replace(path, state="open", standby_ready=True, takeovers=2)
    assert "ready; took over 2 times" in paths_text([ready])
    assert "because" not in path_text(ready)
    assert "a circuit is being built now" in path_text(replace(path, next_try_s=None))
    assert "has not released the destination yet" in path_text(replace(path, state="closing"))


def test_a_stopping_node_tells_what_it_does_not_leave_blocked():
    said = stop_text(StopReport(0, 0, 0, unprotected=1), release=False)
    assert said == "1 destination is NOT blocked, because the kill switch could not be set."
    freed = StopReport(0, 2, 0, unblocked_versions=("IPv4", "IPv6"))
    assert stop_text(freed, release=True).endswith(
        "IPv4 and IPv6 are no longer blocked as a whole."
    )
