"""The same study on a local Dask cluster of two workers, over loopback."""

import sys
import warnings

import pytest
from tiny_engine import endless_run, fragile_run, tiny_run

from sims.scenario.running import RunSettings
from sims.scenario.study import parse_axis, study_of
from sims.studies.results.record import RunFailure
from sims.studies.sweep.cluster import run_on_dask
from sims.studies.sweep.execute import Options, Watcher, execute
from sims.studies.sweep.jobs import Stop, jobs_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Dask's own, many

TABLES = {"duration_s": "1h", "warm_up_s": "10m", "seeds": 4}


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("distributed")
    import dask
    from distributed import LocalCluster

    with (
        warnings.catch_warnings(),
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
    ):
        warnings.simplefilter("ignore")
        with LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
        ) as cluster:
            yield cluster.scheduler_address


def test_a_cluster_yields_the_same_bytes_as_this_machine(tmp_path, cluster, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    study = study_of(TABLES, [parse_axis("latency.loss=0,.2")])
    execute(study, tmp_path / "here", Options(RunSettings(2), runner=tiny_run), Watcher())
    execute(
        study, tmp_path / "there", Options(RunSettings(dask=cluster), runner=tiny_run), Watcher()
    )
    for file in ("observations.csv", "digests.txt", "summary.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


def test_a_worker_that_dies_is_one_failed_run_on_a_cluster_too(cluster):
    jobs = jobs_of(study_of(TABLES))
    ends = {j.seed: e for j, e in run_on_dask(jobs, fragile_run, cluster, Stop(), lambda *_: None)}
    assert not isinstance(ends[1], RunFailure)
    assert "workers that tried this run died" in ends[2].sentence
    assert ends[3].sentence == "seed 3 is not wanted."
    assert "KeyError" in ends[4].sentence


def test_a_stop_reaches_the_workers_and_progress_comes_back(cluster):
    stop = Stop()

    def show(_job, _progress):
        stop.requested = True

    jobs = jobs_of(study_of({**TABLES, "seeds": [5, 6, 7, 8]}))
    ends = list(run_on_dask(jobs, endless_run, cluster, stop, show))
    assert ends
    assert not any(end.complete for _job, end in ends)
