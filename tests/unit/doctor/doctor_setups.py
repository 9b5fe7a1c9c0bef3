"""Configurations that the doctor examines."""

from dataclasses import replace
from pathlib import Path

from overlay.config import (
    Configuration,
)
from overlay.doctor import Outcome, Setup
from overlay.errors import BackendError

WORKS, LACKS, UNKNOWN = Outcome.WORKS, Outcome.LACKS, Outcome.UNKNOWN


DEFAULTS = Setup(Configuration())


def setup(path=Path("overlay.toml"), **sections):
    return Setup(replace(Configuration(), **sections), path)


def refuse(*_):
    raise BackendError("trying it failed (Operation not permitted): run as root.")


def only(findings):
    (finding,) = findings
    return finding
