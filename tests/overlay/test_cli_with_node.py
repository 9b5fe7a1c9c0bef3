import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from overlay.cli.main import main

FAKE_NODE = str(Path(__file__).with_name("fake_control.py"))
TIMEOUT_S = 20
BUG = "ERROR overlay.control.server: control.bug cause=RuntimeError"
"""What the fake node logs when it is asked for its bug: the only line at this level."""
FREE = (
    'until the node runs again; unblock with "overlay stop --release" or "overlay path close '
    '--all".\n'
)


@contextlib.contextmanager
def started_node(configuration, *arguments):
    command = [sys.executable, FAKE_NODE, "up", "--config", str(configuration), *arguments]
    pipe = subprocess.PIPE
    # A script's own directory replaces that of the tree on the path, and another is installed.
    tree = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=tree) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    directory = tmp_path_factory.mktemp("node")
    assert main(["init", "--dir", str(directory), "--network-id", "test"]) == 0
    return directory / "overlay.toml"


@pytest.fixture(scope="module")
def node(configuration):
    """A process of ``overlay up`` with a fake node, up."""
    with started_node(configuration) as process:
        assert process.stdout.readline().startswith("Node fd6d:6978:")
        yield configuration
        assert main(["path", "open", "192.0.2.200", "--config", str(configuration)]) == 0
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out) == (0, "Stopped. 1 destination stays blocked " + FREE)
        assert {line.split(" ", 2)[2] for line in err.splitlines()} <= {BUG}


@pytest.fixture
def overlay(node, capsys):
    """Run a command in this process against the fake node."""

    def run(*arguments):
        status = main([*arguments, "--config", str(node)])
        return status, *capsys.readouterr()

    return run


def test_status_is_readable_and_its_json_complete(overlay):
    status, out, err = overlay("status")
    assert (status, err) == (0, "")
    assert out.startswith("This node works.\n\nnode: ")
    assert "up for:           1h 02m" in out
    assert "mix-nodes known:  6, of which exits 2" in out
    report = json.loads(overlay("status", "--json")[1])
    assert (report["contacts"], report["protected"]) == (7, ["192.0.2.7/32"])


def test_peers_are_a_table_with_one_line_each(overlay):
    _status, out, _err = overlay("peers")
    heading, row = out.splitlines()
    assert heading.split()[:3] == ["NODE", "OVERLAY", "ADDRESS"]
    assert row.split()[:3] == ["cd" * 20, "fd6d:6978::8", "198.51.100.1:4500"]
    assert row.index("accept *:*") == heading.index("EXIT POLICY")
    assert row.index("1m 01s ago") == heading.index("HEARD")
    assert json.loads(overlay("peers", "--json")[1])[0]["linked"] is True


def test_path_is_opened_listed_and_closed(overlay):
    status, out, _err = overlay("path", "open", "192.0.2.7", "--hops", "2", "--via", "fd6d:6978::8")
    assert status == 0
    assert "hop 2:          fd6d:6978::9" in out
    listed = json.loads(overlay("path", "list", "--json")[1])
    assert [path["destination"] for path in listed] == ["192.0.2.7/32"]
    assert "fd6d:6978::8 > fd6d:6978::9" in overlay("path", "list")[1]
    assert overlay("path", "close", str(listed[0]["number"]))[1] == "Closed 1 path.\n"
    closed = json.loads(overlay("path", "close", "--all", "--json")[1])
    assert closed == {"closed": 0, "permanent": 0, "unblocked_versions": []}


def test_a_path_that_is_named_twice_is_closed_once(overlay):
    overlay("path", "open", "192.0.2.7", "--hops", "2", "--via", "fd6d:6978::8")
    number = json.loads(overlay("path", "list", "--json")[1])[0]["number"]
    status, out, err = overlay("path", "close", str(number), "192.0.2.7", str(number))
    assert (status, out, err) == (0, "Closed 1 path.\n", "")
    assert overlay("path", "list")[1].startswith("No paths are open")


@pytest.mark.slow
def test_example_program_uses_the_node_that_runs(node):
    example = Path(__file__).parents[2] / "examples" / "running_node.py"
    socket = node.parent / "run" / "control.sock"
    done = subprocess.run(
        [sys.executable, str(example), "--socket", str(socket), "192.0.2.77", "echo", "fetched"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fetched\n"), done.stderr
    assert "through" in done.stderr


def test_several_destinations_are_opened_and_closed_by_what_people_type(overlay):
    addresses = ("192.0.2.7", "2001:db8::7")
    via = ("--via", "fd6d:6978::8,fd6d:6978::9", "--via", "cd" * 20)
    status, out, _err = overlay("path", "open", *via, *addresses, "--both-versions")
    assert status == 0
    assert out.count("stays open:") == 2
    assert out.count("\npath:") == 1, "two paths, a blank line between them"
    opened = json.loads(overlay("path", "list", "--json")[1])
    assert [path["destination"] for path in opened] == ["192.0.2.7/32", "2001:db8::7/128"]
    assert opened[0]["stays_open"]
    assert (
        overlay("path", "close", addresses[0], str(opened[1]["number"]))[1] == "Closed 2 paths.\n"
    )
    overlay("path", "open", "192.0.2.7")
    assert overlay("path", "close", "all")[1] == "Closed 1 path.\n"
    single = json.loads(overlay("path", "open", "192.0.2.7", "--both-versions", "--json")[1])
    assert single["both_versions"] is True
    several = json.loads(overlay("path", "open", "192.0.2.8", "192.0.2.9", "--json")[1])
    assert [path["number"] for path in several] == [2, 3]
    overlay("path", "close", "--all")


def test_closing_a_permanent_path_says_that_it_returns(overlay):
    overlay("path", "open", "198.51.100.9")
    out = overlay("path", "close", "198.51.100.9")[1]
    assert out.startswith("Closed 1 path. 1 destination is listed in [paths] permanent")
    assert "again at the next start" in out


@pytest.mark.parametrize("which", ["9", "-1", "198.51.100.1"])
def test_closing_what_is_not_there_lists_what_is(overlay, which):
    overlay("path", "open", "192.0.2.7")
    status, _out, err = overlay("path", "close", which)
    assert status == 1
    assert err.endswith("open paths: 1 (192.0.2.7/32).\n")
    overlay("path", "close", "--all")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["path", "open", "192.0.2.7", "--strategy", "none-left"], "overlay: no exit fits.\n"),
        (["path", "close", "9"], "overlay: there is no path 9; open paths: none.\n"),
    ],
)
def test_refusal_of_the_node_is_one_sentence(overlay, arguments, sentence):
    assert overlay(*arguments) == (1, "", sentence)


def test_bug_of_the_node_is_called_one(overlay):
    status, out, err = overlay("path", "open", "192.0.2.7", "--strategy", "buggy")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "this is a bug in overlay" in err
    assert "Traceback" not in err
    assert "Traceback" in overlay("--debug", "path", "open", "192.0.2.7", "--strategy", "buggy")[2]


def test_socket_option_finds_the_node_without_its_configuration(node, capsys):
    socket = node.parent / "run" / "control.sock"
    assert main(["--json", "--socket", str(socket), "status"]) == 0
    assert json.loads(capsys.readouterr().out)["network_id"] == "test"


@pytest.mark.slow
def test_second_node_on_the_same_socket_is_refused_in_a_sentence(node):
    with started_node(node) as second:
        out, err = second.communicate(timeout=TIMEOUT_S)
    assert (second.returncode, out) == (1, "")
    assert err.startswith("overlay: a node already runs with this control socket")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_module_runs_as_the_command_does(node):
    command = [sys.executable, "-m", "overlay", "path", "list", "--config", str(node)]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("No paths are open")


@pytest.mark.slow
def test_a_terminal_that_hangs_up_stops_no_node(tmp_path, capsys):
    """The session's leader gets SIGHUP, and standard output and error lead nowhere."""
    assert main(["init", "--dir", str(tmp_path)]) == 0
    configuration = str(tmp_path / "overlay.toml")
    terminal, side = pty.openpty()
    command = [sys.executable, FAKE_NODE, "up", "--config", configuration]

    def own_the_terminal():
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side,
        start_new_session=True, preexec_fn=own_the_terminal,
    ) as process:  # fmt: skip
        os.close(side)
        assert b"is up" in os.read(terminal, 1000)
        assert main(["path", "open", "192.0.2.7", "--config", configuration]) == 0
        os.close(terminal)
        assert main(["status", "--config", configuration]) == 0
        assert process.poll() is None
        assert main(["stop", "--config", configuration]) == 0
        process.wait(TIMEOUT_S)
    assert "1 destination stays blocked" in capsys.readouterr().out


@pytest.mark.slow
def test_reader_that_leaves_early_causes_no_complaint(node):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "overlay", "status", "--config", str(node)]
    asked = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_S)
    os.close(writing)
    assert (asked.returncode, asked.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "stop --release", signal.SIGINT, signal.SIGTERM])
def test_node_stops_says_what_stays_blocked_and_leaves_no_socket(tmp_path, end, capsys):
    assert main(["init", "--dir", str(tmp_path)]) == 0
    configuration = tmp_path / "overlay.toml"
    with started_node(configuration, "--json", "--listen", "127.0.0.1:4600") as process:
        up = json.loads(process.stdout.readline())
        assert up["listen"] == ["127.0.0.1:4600"]
        socket = Path(up["control_socket"])
        assert socket.exists()
        assert main(["path", "open", "192.0.2.7", "--config", str(configuration)]) == 0
        process.send_signal(signal.SIGHUP)  # no stop
        # An answer shows that the node has handled it: a signal that follows would end it before.
        assert main(["status", "--config", str(configuration)]) == 0
        capsys.readouterr()
        if isinstance(end, str):
            assert main([*end.split(), "--config", str(configuration)]) == 0
        else:
            process.send_signal(end)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "node.hangup_ignored" in err
    assert err.count("\n") == 1
    assert not socket.exists()
    said = capsys.readouterr().out
    if end == "stop --release":
        assert (out, said) == ("", "Stopped. Freed 1 destination: packets leave directly again.\n")
        return
    assert json.loads(out) == {"blocked": 1}
    if end == "stop":
        assert said == "Stopped. 1 destination stays blocked " + FREE
