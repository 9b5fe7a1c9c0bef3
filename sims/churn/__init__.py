"""Compute when nodes go on line and off line: session models, arrivals and events.

::

    parse_model("kad2007") ─▶ SessionModel(on, off) ──┐
    Equilibrium() | MassJoin(...) ────────────────────┼─▶ churn_events(...) ─▶ (time, node, on/off)
    MassFailure(...), FlashCrowd(...) ────────────────┘

All times are seconds from the start of the simulation. The events depend only on the arguments
and on the ``Random`` that is passed in.
"""

from sims.churn.arrivals import Equilibrium, FlashCrowd, MassFailure, MassJoin
from sims.churn.events import ChurnEvent, churn_events
from sims.churn.lifetimes import Lifetimes
from sims.churn.parsing import parse_duration, parse_model
from sims.churn.session_models import PRESETS, SessionModel
from sims.churn.trace import Trace, read_trace

__all__ = [
    "PRESETS",
    "ChurnEvent",
    "Equilibrium",
    "FlashCrowd",
    "Lifetimes",
    "MassFailure",
    "MassJoin",
    "SessionModel",
    "Trace",
    "churn_events",
    "parse_duration",
    "parse_model",
    "read_trace",
]
