"""A very small engine with random sessions and lookups, and every part of the contract."""

import hashlib
import os
import random
import signal
import time
from pathlib import Path

from overlay.errors import ConfigurationError
from overlay.logs import EventLog
from sims.observations import Observations, Progress, RunOutcome


def tiny_run(scenario, seed, *, progress=None, should_stop=None):
    """One lookup a simulated minute, with the loss of the scenario as its failure rate."""
    rng = random.Random(seed)
    observations = Observations()
    digest = hashlib.sha256()
    now, complete = 0.0, True
    while now < scenario.total_s:
        now += 60.0
        success = rng.random() >= scenario.latency.loss
        latency = rng.expovariate(2.0)
        observations.add(now, "lookup_success", float(success))
        observations.add(now, "lookup_latency_s", latency)
        observations.add(now, "online_nodes", float(scenario.nodes))
        for bucket in range(8):
            observations.add(now, "bucket_fill", 20.0 / 2**bucket, f"bucket-{bucket}")
        digest.update(repr((now, success, latency)).encode())
        if progress is not None:
            progress(Progress(seed, now, scenario.total_s, int(now), scenario.nodes))
        if should_stop is not None and should_stop():
            complete = False
            break
    return RunOutcome(
        seed=seed,
        observations=observations,
        digest=digest.hexdigest(),
        counters={"datagrams": int(now)},
        complete=complete,
        simulated_s=now,
        wall_s=0.01,
        peak_rss_bytes=1_000_000,
    )


def endless_run(scenario, seed, *, progress=None, should_stop=None):
    """Seed 1 ends at once; others measure until they are asked to stop."""
    if seed == 1:
        return tiny_run(scenario, seed, progress=progress, should_stop=should_stop)

    def at_leisure():
        time.sleep(0.001)
        return should_stop()

    for _ in range(100_000):
        outcome = tiny_run(scenario, seed, progress=progress, should_stop=at_leisure)
        if not outcome.complete:
            return outcome
    raise AssertionError("nobody asked it to stop")


def noisy_run(scenario, seed, *, progress=None, should_stop=None):
    """Log a warning and an error as a simulated node does."""
    log = EventLog("overlay.link")
    log.warning("link.failed")
    log.error("control.bug")
    return tiny_run(scenario, seed, progress=progress, should_stop=should_stop)


def fragile_run(scenario, seed, *, progress=None, should_stop=None):
    """Seed 2 kills its process, seed 3 is refused, seed 4 has a bug."""
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 3:
        raise ConfigurationError("seed 3 is not wanted.")
    if seed == 4:
        raise KeyError("bug")
    return tiny_run(scenario, seed, progress=progress, should_stop=should_stop)


def pid_run(scenario, seed, *, progress=None, should_stop=None):
    """Tell the test which process this is, then measure until stopped."""
    part = Path(os.environ["BEAT"]).with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(os.environ["BEAT"])
    return endless_run(scenario, seed, progress=progress, should_stop=should_stop)
