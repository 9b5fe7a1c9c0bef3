"""What a configuration requires, and how an examination is shown."""

import json
import threading
import time
from dataclasses import replace

import pytest

from overlay.cli.doctor import examination_answer
from overlay.cli.main import main
from overlay.config import Configuration, IpsecSettings, RoleSettings
from overlay.doctor import CHECKS, Examination, Finding, Outcome, Purpose, Setup, examine
from overlay.doctor.findings import Check
from overlay.doctor.registry import CHECKS as REGISTERED


def setup(*, backend="auto", relay=True, leaves=False):
    return Setup(
        replace(
            Configuration(),
            ipsec=IpsecSettings(backend=backend),
            roles=RoleSettings(relay=relay, exit=leaves),
        )
    )


def lacking(*needed_for):
    return Finding("a thing", Outcome.LACKS, "it is not there; type: make thing", needed_for)


def examination(*findings, of=None):
    return Examination(of or setup(), tuple(("thing", finding) for finding in findings))


NODE, EXIT, KERNEL = Purpose.NODE, Purpose.EXIT, Purpose.KERNEL


@pytest.mark.parametrize(
    ("configured", "purposes"),
    [
        (setup(), {NODE}),
        (setup(backend="userspace", leaves=True), {NODE, EXIT}),
        (setup(backend="xfrm", relay=False), {NODE, KERNEL}),
        (setup(backend="xfrm"), {NODE, KERNEL, Purpose.KERNEL_RELAY}),
    ],
)
def test_roles_and_backend_decide_what_is_required(configured, purposes):
    assert configured.purposes == purposes


def test_what_lacks_keeps_the_node_from_running_only_if_it_is_required():
    assert examination(lacking(NODE)).can_run is False
    assert examination(lacking(EXIT, Purpose.OWN_PATHS)).can_run is True
    assert examination(lacking(EXIT), of=setup(leaves=True)).can_run is False
    assert examination(replace(lacking(NODE), outcome=Outcome.UNKNOWN)).can_run is True


def test_every_check_runs_whatever_the_others_find():
    checks = [
        Check("one", lambda _: [lacking(NODE)]),
        Check("none", lambda _: []),
        Check("two", lambda _: [lacking(EXIT), lacking(KERNEL)]),
    ]
    found = examine(setup(), checks)
    assert [name for name, _ in found.findings] == ["one", "two", "two"]
    assert len(found.obstacles) == 1


def test_a_check_that_does_not_end_in_time_is_unknown_and_the_others_end():
    release = threading.Event()
    checks = [
        Check("first", lambda _: [lacking(NODE)]),
        Check("hangs", lambda _: [lacking(NODE)] if release.wait(60) else []),
        Check("last", lambda _: [lacking(EXIT)]),
    ]
    begun = time.monotonic()
    found = examine(setup(), checks, wait_s=0.4)
    took_s = time.monotonic() - begun
    release.set()
    assert [name for name, _ in found.findings] == ["first", "hangs", "last"]
    late = found.findings[1][1]
    assert (late.outcome, "overlay doctor --wait" in late.said) == (Outcome.UNKNOWN, True)
    assert took_s < 10, "the examination does not wait for the check"


def test_an_error_of_a_check_is_not_hidden_by_its_thread():
    def fail(_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        examine(setup(), [Check("broken", fail)])


def test_checks_have_names_of_their_own():
    assert CHECKS is REGISTERED
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_the_text_marks_what_is_required_and_names_the_remedy():
    text = examination_answer(examination(lacking(NODE), lacking(EXIT))).text
    assert "LACKS   a thing  it is not there; type: make thing (needed for: every node)" in text
    assert "lacks   a thing  it is not there; type: make thing (needed for: an exit)" in text
    assert "cannot run: fix everything that is marked LACKS above (1)" in text
    assert "Nothing on this host was changed" in text


def test_lines_fit_a_terminal_and_control_characters_do_not_reach_it():
    long = replace(lacking(NODE), said="word " * 60 + "\x1b[2J")
    text = examination_answer(examination(long)).text
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_json_tells_each_finding_and_the_verdict():
    plain = examination_answer(examination(lacking(EXIT))).plain
    assert json.loads(json.dumps(plain)) == {
        "configuration": None,
        "can_run": True,
        "verdict": None,
        "backend": "xfrm",
        "backend_reason": "this kernel can do what is configured",
        "findings": [
            {
                "check": "thing", "subject": "a thing", "outcome": "lacks", "required": False,
                "needed_for": ["an exit"], "said": "it is not there; type: make thing",
            }
        ],
    }  # fmt: skip


def test_a_missing_or_broken_configuration_is_one_sentence(tmp_path, capsys):
    broken = tmp_path / "overlay.toml"
    broken.write_text("[network\n")
    for path, words in ((tmp_path / "none.toml", "overlay init"), (broken, "line 1")):
        assert main(["doctor", "--config", str(path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert words in err


@pytest.mark.parametrize(
    ("configured", "found", "backend"),
    [
        (setup(), [], ("xfrm", "this kernel can do what is configured")),
        (setup(), [lacking(EXIT)], ("xfrm", "this kernel can do what is configured")),
        (
            setup(),
            [lacking(EXIT), lacking(KERNEL), lacking(KERNEL, NODE)],
            ("userspace", "a thing: it is not there; type: make thing"),
        ),
        (
            setup(),
            [lacking(Purpose.KERNEL_RELAY)],
            ("userspace", "a thing: it is not there; type: make thing"),
        ),
        (
            setup(relay=False),
            [lacking(Purpose.KERNEL_RELAY)],
            ("xfrm", "this kernel can do what is configured"),
        ),
        (setup(backend="xfrm"), [lacking(KERNEL)], ("xfrm", "[ipsec] backend names it")),
        (setup(backend="userspace"), [], ("userspace", "[ipsec] backend names it")),
    ],
)
def test_the_backend_that_would_run_is_shown_with_its_reason(configured, found, backend):
    answer = examination_answer(examination(*found, of=configured))
    assert (answer.plain["backend"], answer.plain["backend_reason"]) == backend
    assert f"Its IPsec backend would be {backend[0]} ({backend[1]})." in answer.text
