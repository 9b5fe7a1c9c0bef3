import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_engine import endless_run, fragile_run, tiny_run

from overlay.errors import BackendError, ConfigurationError
from sims.observations import RunOutcome
from sims.scenario.files import load_tables, shipped_names
from sims.scenario.running import RunSettings
from sims.scenario.scenario import Scenario
from sims.scenario.study import parse_axis, study_of
from sims.studies.results.reading import read_results
from sims.studies.results.record import RunFailure
from sims.studies.sweep import checks
from sims.studies.sweep.checks import check_study
from sims.studies.sweep.execute import Options, Watcher, execute
from sims.studies.sweep.jobs import Stop, jobs_of
from sims.studies.sweep.local import run_locally

TABLES = {"duration_s": "1h", "warm_up_s": "10m", "seeds": 4}


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Drawing takes seconds: it is left out, as where matplotlib is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def ignore(*_):
    """Take progress and say nothing."""


def test_jobs_visit_every_point_before_the_next_seed():
    jobs = jobs_of(study_of({"seeds": 2}, [parse_axis("nodes=10,20")]))
    assert [job.key for job in jobs] == [(0, 1), (1, 1), (0, 2), (1, 2)]


@pytest.mark.slow
def test_a_worker_that_dies_is_one_failed_run():
    jobs = jobs_of(study_of(TABLES))
    ends = {j.seed: e for j, e in run_locally(jobs, fragile_run, 2, Stop(), ignore)}
    assert isinstance(ends[1], RunOutcome)
    assert isinstance(ends[2], RunFailure)
    assert "killed (signal 9)" in ends[2].sentence
    assert ends[3].sentence == "seed 3 is not wanted."
    assert ends[4].sentence == "this is a bug in the simulator: KeyError: 'bug'"


def tiny(jobs):
    return Options(RunSettings(jobs), runner=tiny_run)


@pytest.mark.slow
def test_the_outcome_does_not_depend_on_the_number_of_workers(tmp_path):
    study = study_of(TABLES, [parse_axis("latency.loss=0,.2")])
    for workers in (1, 3):
        execute(study, tmp_path / str(workers), tiny(workers), Watcher())
    for file in ("observations.csv", "digests.txt", "summary.json"):
        one, three = (tmp_path / name / file for name in ("1", "3"))
        assert one.read_bytes() == three.read_bytes()


@pytest.mark.slow
def test_a_stop_keeps_what_was_measured(tmp_path):
    study, handler = study_of(TABLES), signal.getsignal(signal.SIGINT)
    began = []

    def interrupt(job, _progress):
        if job.seed == 3 and not began:
            began.append(job)
            signal.raise_signal(signal.SIGINT)

    drawn = execute(
        study,
        tmp_path / "out",
        Options(RunSettings(2), runner=endless_run),
        Watcher(progress=interrupt),
    )
    results = read_results(tmp_path / "out")
    assert drawn.results.state == results.state == "interrupted"
    assert (results.runs[0].seed, results.runs[0].complete) == (1, True)
    assert not any(run.complete for run in results.runs[1:])
    assert not results.complete
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_a_second_interrupt_ends_hard_and_leaves_a_readable_directory(tmp_path):
    interrupts = []

    def interrupt(_job, _progress):
        interrupts.append(1)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(
            study_of({**TABLES, "seeds": [1, 2]}),
            tmp_path / "out",
            Options(RunSettings(1), runner=endless_run),
            Watcher(progress=interrupt),
        )
    assert read_results(tmp_path / "out").state == "failed"


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_written(tmp_path):
    """RLIMIT_FSIZE stands for the full disk: the second, longer run does not fit."""
    study = study_of({**TABLES, "seeds": 1}, [parse_axis("duration_s=600,200000")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BackendError, match="what was written is kept"):
            execute(study, tmp_path / "out", tiny(1), Watcher())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    results = read_results(tmp_path / "out")
    assert results.state == "failed"
    assert [run.point for run in results.runs] == [0]
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.slow
def test_warnings_of_simulated_nodes_do_not_hide_the_progress():
    program = (
        "from tiny_engine import noisy_run; from test_sweep import TABLES;"
        "from sims.scenario.study import study_of;"
        "from sims.studies.sweep.jobs import Stop, jobs_of;"
        "from sims.studies.sweep.local import run_locally;"
        "jobs = jobs_of(study_of({**TABLES, 'seeds': [7]}));"
        "list(run_locally(jobs, noisy_run, 1, Stop(), lambda *_: None))"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "link.failed" not in done.stderr
    assert "control.bug" in done.stderr


@pytest.mark.slow
def test_a_worker_whose_parent_is_killed_ends_by_itself(tmp_path):
    program = (
        "import pathlib, sys; from tiny_engine import pid_run; from test_sweep import TABLES;"
        "from sims.scenario.study import study_of;"
        "from sims.studies.sweep.jobs import Stop, jobs_of;"
        "from sims.studies.sweep.local import run_locally;"
        "jobs = jobs_of(study_of({**TABLES, 'name': sys.argv[1], 'seeds': [7]}));"
        "list(run_locally(jobs, pid_run, 1, Stop(), lambda *_: None))"
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", program, "beats"],
        env={**os.environ, "PYTHONPATH": path, "BEAT": str(tmp_path / "beat")},
    )
    try:
        worker = int(_within_a_minute(lambda: (tmp_path / "beat").read_text()))
    finally:
        parent.kill()
        parent.wait()
    _within_a_minute(lambda: not _alive(worker))


def _within_a_minute(ask):
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = ask()
        except OSError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"churn": {"model": "kad2008"}}, "[churn] model:"),
        ({"churn": {"model": "trace(/nowhere.csv)"}}, "/nowhere.csv"),
        ({"latency": {"model": "geographic", "matrix": "/nowhere.csv"}}, "/nowhere.csv"),
        ({"dht": {"alfa": 3}}, "there is no [dht] setting alfa; did you mean alpha?"),
        ({"dht": {"alpha": 0}}, "alpha must lie between"),
        ({"circuits": {"clients": 3, "strategy": "unifrom"}}, "did you mean 'uniform'?"),
        (
            {"circuits": {"strategy": "bogus"}},
            "[circuits] strategy: there is no path selection strategy named",
        ),
        ({"dht": {"alpha": 1}}, "set disjoint_paths to at most 1 as well"),
        ({"arrival": {"at_s": 300}}, "at_s = 300 says nothing about 'equilibrium'"),
        (
            {"duration_s": 120, "arrival": {"kind": "partition", "at_s": 60, "lasts_s": "2d"}},
            "at_s + lasts_s = 172860 lies after the end of the run",
        ),
        ({"expectations": ["lookup_sucess mean > 0"]}, "did you mean lookup_success?"),
        ({"nodes": 10_000_000}, "GB are available; write at most"),
        ({"fidelity": "model", "arrival": {"kind": "partition"}}, 'fidelity = "full"'),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_first_run(tables, words, monkeypatch):
    monkeypatch.setattr(checks, "available_bytes", lambda: 8 * 10**9)
    with pytest.raises(ConfigurationError) as caught:
        check_study(study_of(tables), at_a_time=2)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shipped_scenario_can_be_run():
    for name in shipped_names():
        for quick in (False, True):
            check_study(study_of(load_tables(name, quick=quick)), at_a_time=None)


def test_memory_is_no_matter_of_this_machine_on_a_cluster():
    check_study(study_of({"nodes": 10_000_000}), at_a_time=None)


@pytest.mark.slow
def test_a_dask_scheduler_that_does_not_answer_gets_a_sentence(tmp_path):
    pytest.importorskip("distributed")
    options = Options(RunSettings(dask="tcp://127.0.0.1"), runner=tiny_run)
    with pytest.raises(ConfigurationError, match="no scheduler answers there"):
        execute(study_of(TABLES), tmp_path / "out", options, Watcher())


def test_without_dask_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    options = Options(RunSettings(dask="tcp://127.0.0.1:1"), runner=tiny_run)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[dask\]'"):
        execute(study_of(TABLES), tmp_path / "out", options, Watcher())


@pytest.mark.slow
def test_both_fidelities_run_the_same_scenario():
    from sims.studies.sweep.jobs import run_scenario

    scenario = Scenario(nodes=300, duration_s=300, warm_up_s=60, fidelity="model", seeds=1)
    outcome = run_scenario(scenario, 1)
    assert outcome.complete
    assert "lookup_success" in {observation.metric for observation in outcome.observations}
