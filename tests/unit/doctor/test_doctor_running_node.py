"""What the doctor tells of a running node, and of one that ended."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from node_reports import STATUS as NODE

from overlay.cli.doctor import examination_answer
from overlay.config import Configuration, NodeSettings
from overlay.doctor import Outcome, Setup, examine
from overlay.doctor.findings import Check, NodeStatus
from overlay.doctor.running import ask_running_node, running_node

STATUS = replace(NODE, verdict="This node works: it has joined.")
WRONG_CLOCK = "this host's clock is 8 minutes ahead; set it with: apt-get install chrony"


def said(setup, *, blocked=0, owned=False):
    (finding,) = running_node(setup, lambda: range(blocked), lambda: owned)
    return finding


@pytest.fixture
def setup(tmp_path):
    return Setup(
        Configuration(node=NodeSettings(state_dir=tmp_path, control_socket=tmp_path / "s")),
        Path("overlay.toml"),
    )


def test_the_verdict_comes_first_and_its_trouble_is_no_obstacle(setup):
    ill = replace(STATUS, verdict="NOT PROTECTED: nft is missing.", works=False)
    clock = replace(STATUS, network_problems=(WRONG_CLOCK,))
    for status, outcome in (
        (STATUS, Outcome.WORKS),
        (ill, Outcome.UNKNOWN),
        (clock, Outcome.UNKNOWN),
    ):
        asked = replace(setup, running=NodeStatus(status))
        assert (said(asked).outcome, said(asked).said) == (outcome, status.verdict)
    examination = replace(examine(setup, ()), setup=replace(setup, running=NodeStatus(ill)))
    answer = examination_answer(examination)
    assert answer.text.startswith("NOT PROTECTED: nft is missing.\n\nExamined for")
    assert json.loads(json.dumps(answer.plain))["verdict"] == ill.verdict
    assert answer.plain["can_run"]


def test_without_a_node_it_tells_how_to_start_one_and_what_stays_blocked(setup):
    assert said(setup).said.endswith("start it with: overlay up --config overlay.toml")
    left = said(setup, blocked=2).said
    assert "2 destinations are blocked by a node that ended" in left
    assert "overlay stop --release" in left
    assert "blocked" not in said(setup, blocked=2, owned=True).said, "another node carries them"
    assert running_node(replace(setup, path=None)) == []


def test_a_node_that_does_not_answer_costs_a_second_and_is_told(setup):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(setup.configuration.node.control_socket))
        listening.listen()
        begun = time.monotonic()
        asked = ask_running_node(setup)
        assert time.monotonic() - begun < 2.5
    assert asked is not None
    assert asked.status is None
    assert "not answered within 1." in said(replace(setup, running=asked)).said


def test_the_node_is_asked_once_for_all_checks(setup):
    seen = []
    look = Check("look", lambda given: seen.append(given.running) or [])
    examine(setup, (look, look))
    assert seen == [None, None]
