"""``overlay sim`` as its user meets it: a process, its output and its exit status."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.cli.main import main

ROOT = Path(__file__).parents[3]
SMALL = (
    *("--model", "ipfs2022", "--nodes", "12", "--duration", "2m", "--warm-up", "30s"),
    *("--lookups-per-hour", "120", "--seeds", "2"),
)


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "overlay", "sim", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=options.pop("cwd", ROOT),
        env={**os.environ, "PYTHONPATH": str(ROOT), **options},
        check=False,
    )


def without_figures(directory):
    """Return a PYTHONPATH on which matplotlib is missing: drawing takes seconds."""
    hidden = directory / "hidden" / "matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError\n")
    return os.pathsep.join((str(hidden.parent), str(ROOT)))


def refused(capsys, words, *arguments):
    status = main(["sim", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith("overlay: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("no session model", ("churn", "--model", "kad2008")),
        ("share must lie between 0 and 0.9", ("churn", "--adversary-share", "2")),
        ('write behaviours = ["drop"]', ("churn", "--adversary-share", ".2")),
        ("write at most", ("churn", "--nodes", "10000000")),
        ("did you mean", ("churn", "baseline-kad207")),
        ("--set dht.alpha=3", ("churn", "--set", "alpha")),
        ("--sweep nodes=500,1000", ("churn", "--sweep", "nodes")),
        ("there is no setting", ("churn", "--sweep", "node=1,2")),
        ("--jobs must lie between 1 and 1024, not 0", ("churn", "--jobs", "0")),
        ("leave one out", ("churn", "--jobs", "2", "--dask", "tcp://127.0.0.1:1")),
        ("cannot be written", ("churn", "--nodes", "20", "--out", "/proc/nowhere")),
        ("--quick is the small size", ("churn", "--quick")),
        ("config.json cannot be read", ("plot", "/nowhere")),
    ],
)
def test_a_mistake_gets_one_sentence(capsys, words, arguments):
    refused(capsys, words, *arguments)


def test_options_make_the_scenario_that_a_file_would(capsys):
    status = main(["sim", "churn", "mass-failure", "--nodes", "77", "--set", "dht.alpha=4",
                   "--seeds", "3,7", "--behaviour", "drop", "--adversary-share", ".1",
                   "--expect", "lookup_hops p95 <= 5", "--dry-run"])  # fmt: skip
    assert status == 0
    out, _err = capsys.readouterr()
    for line in ("nodes = 77", "alpha = 4", "seeds = [3, 7]", 'behaviours = ["drop"]',
                 'expectations = ["lookup_hops p95 <= 5.0"]', "share = 0.3"):  # fmt: skip
        assert line in out


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("[dht] k must lie between 1 and 64, not 0", ("--set", "dht.k=0")),
        ("there is no [dht] setting foo", ("--set", "dht.foo=1")),
        ("[dht] k must be a whole number from 1 to 64, not 2.5", ("--set", "dht.k=2.5")),
        ('fidelity = "full"', ("--fidelity", "model", "--arrival", "partition")),
        ("named 'bogus'", ("--set", "circuits.strategy=bogus")),
        ("no session model", ("--model", "kad2008")),
        ("write at most", ("--nodes", "10000000")),
        ("--jobs must lie between 1 and 1024, not 0", ("--jobs", "0")),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(capsys, tmp_path, words, arguments):
    out = tmp_path / "out"
    refused(capsys, words, "churn", *arguments, "--out", out)
    refused(capsys, words, "churn", *arguments, "--out", out, "--dry-run")
    assert not out.exists()


def test_a_dry_run_reads_the_settings_of_a_file_as_the_run_does(capsys, tmp_path):
    (tmp_path / "s.toml").write_text('[dht]\nk = "20"\n')
    refused(capsys, "k must be a whole number", "churn", tmp_path / "s.toml", "--dry-run")


def test_the_shipped_scenarios_are_listed(capsys):
    assert main(["sim", "scenarios", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"baseline-kad2007", "mass-failure", "adversary-lie"} <= {s["name"] for s in listed}


@pytest.mark.slow
def test_asking_a_node_imports_no_simulator():
    program = (
        "import sys; from overlay.cli.main import main; main(['status', '--socket', '/nowhere']);"
        "sys.exit(any(name.partition('.')[0] == 'sims' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_run_is_judged_and_can_be_drawn_again(tmp_path):
    out = tmp_path / "out"
    promises = ("--expect", "lookup_success mean >= 0.5", "--expect", "lookup_hops max <= 0")
    done = run("churn", *SMALL, *promises, "--out", out)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("held      expected lookup_success mean >= 0.5; got ")
    assert "NOT HELD  expected lookup_hops max <= 0" in done.stdout
    assert "2 of 2 runs ended" in done.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["points"][0]["scenario"]["nodes"] == 12
    assert config["versions"]["python"]
    before = (out / "summary.json").read_bytes()
    again = run("plot", out, "--json")
    assert again.returncode == 1, again.stderr
    assert json.loads(again.stdout)["complete"]
    assert (out / "summary.json").read_bytes() == before
    assert run("churn", *SMALL, "--out", out).stderr.count("is not empty") == 1


@pytest.mark.slow
def test_a_scenario_file_runs_with_the_trace_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # drawing takes seconds
    (tmp_path / "t.csv").write_text("node,on_s,off_s\na,0,900\na,1000,4000\nb,0,1800\n")
    scenario = tmp_path / "traced.toml"
    scenario.write_text(
        'nodes = 12\nduration_s = "2m"\nwarm_up_s = "30s"\nseeds = 1\n'
        'expectations = ["lookup_success mean >= 0.5"]\nlookups_per_hour = 120\n'
        '[churn]\nmodel = "trace(t.csv)"\n'
    )
    out = tmp_path / "out"
    assert main(["sim", "churn", str(scenario), "--jobs", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("held ")


@pytest.mark.slow
def test_a_held_scenario_exits_with_zero_whatever_the_hash_seed(tmp_path):
    digests = []
    path = without_figures(tmp_path)
    for seed in ("0", "1"):
        out = tmp_path / seed
        held = ("--expect", "lookup_success mean >= 0.5", "--out", out)
        done = run("churn", *SMALL, *held, PYTHONHASHSEED=seed, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr + done.stdout
        digests.append((out / "digests.txt").read_bytes())
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_stops_cleanly_and_keeps_what_was_measured(tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "overlay", "sim", "churn", *SMALL),
            *("--duration", "60d", "--out", str(tmp_path / "out"), "--jobs", "1"),
        ],
        stderr=follower,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": without_figures(tmp_path)},
        start_new_session=True,
    )
    os.close(follower)
    seen = b""
    while b"nodes on-line" not in seen:
        seen += os.read(leader, 4096)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: the workers get it as well
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Incomplete: the study was interrupted; 0 of 2 runs went to their end." in out
    assert b"\r" in seen
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["state"], summary["runs"]) == ("interrupted", 1)
    assert summary["points"][0]["incomplete_seeds"] == [1]
    os.close(leader)
    assert run("plot", tmp_path / "out", PYTHONPATH=str(ROOT)).returncode == 1  # incomplete
