"""E25: the same seed gives the same run with other hash seeds and numbers of workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from overlay.errors import BackendError
from overlay.logs import configure_logging
from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, exactly
from sims.acceptance.experiments.sessions import leaving_model
from sims.scenario.scenario import Scenario
from sims.scenario.sections import Churn
from sims.scenario.values import LINE
from sims.world.run import run

__all__ = ["E25", "digests_of"]

_PATIENCE_S: Final = 1800
_ROOT: Final = Path(__file__).resolve().parents[3]

_SCRIPT: Final = """
import json, sys
from sims.acceptance.experiments.determinism import digests_of
nodes, duration_s, model, workers, *seeds = json.loads(sys.argv[1])
print(json.dumps(digests_of(nodes, duration_s, model, seeds, workers)))
"""


@dataclass(frozen=True, slots=True)
class Reruns(Settings):
    """One scenario, run with each seed, several hash seeds and several numbers of workers."""

    nodes: int = setting(200, whole(20, 100_000), "Number of nodes.")
    duration_s: float = setting(3600.0, number(60, 1e6, "seconds"), "Simulated time of each run.")
    model: str = setting("p2psim", LINE, "Session model.")
    hash_seeds: tuple[int, ...] = setting(
        (0, 1), many(whole(0, 2**32 - 1)), "Values of PYTHONHASHSEED."
    )
    workers: tuple[int, ...] = setting((1, 2), many(whole(1, 64)), "Numbers of worker processes.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        leaving_model(self.model)


def digests_of(
    nodes: int, duration_s: float, model: str, seeds: list[int], workers: int
) -> list[str]:
    """Return the event digest of each seed's run, with ``workers`` processes."""
    jobs = [(nodes, duration_s, model, seed) for seed in seeds]
    if workers == 1:
        return [_digest(job) for job in jobs]
    quiet = partial(configure_logging, "error")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=quiet) as pool:
        return list(pool.map(_digest, jobs))


def _digest(job: tuple[int, float, str, int]) -> str:
    nodes, duration_s, model, seed = job
    scenario = Scenario(
        name="accept-e25",
        nodes=nodes,
        duration_s=duration_s,
        warm_up_s=0.0,
        lookups_per_hour=6.0,
        seeds=(seed,),
        churn=Churn(model),
    )
    return run(scenario, seed).digest


def _measure(settings: Reruns, seeds: int, progress: Progress) -> Measurement:
    numbers = list(range(1, max(2, seeds) + 1))
    progress("E25: the runs that all others are compared with")
    reference = digests_of(settings.nodes, settings.duration_s, settings.model, numbers, 1)
    points = [
        exactly("seeds whose runs differ from each other", 0, len(set(reference)), len(numbers))
    ]
    for hash_seed in settings.hash_seeds:
        for workers in settings.workers:
            progress(f"E25: PYTHONHASHSEED={hash_seed}, {workers} workers")
            again = _elsewhere(settings, numbers, hash_seed, workers)
            same = sum(one == other for one, other in zip(reference, again, strict=True))
            curve = f"equal digests, {workers} worker{'s' if workers > 1 else ''}"
            points.append(
                CheckedValue(curve, hash_seed, same, len(numbers), len(numbers), len(numbers))
            )
    return Measurement(points, f"first digest {reference[0][:16]}")


def _elsewhere(settings: Reruns, seeds: list[int], hash_seed: int, workers: int) -> list[str]:
    """Run in a new process, because the hash seed is fixed when the interpreter starts."""
    job = json.dumps([settings.nodes, settings.duration_s, settings.model, workers, *seeds])
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, job],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise BackendError(
            f"The rerun with PYTHONHASHSEED={hash_seed} failed: {done.stderr.strip()[-300:]}"
        )
    digests: list[str] = json.loads(done.stdout)
    return digests


E25 = Experiment(
    "E25",
    "Determinism",
    "event digests equal across runs, hash seeds and workers, exactly",
    "PYTHONHASHSEED",
    "equal digests",
    Reruns(),
    Reruns(nodes=60, duration_s=900.0),
    _measure,
)
