"""Compute when nodes go on line and off line: session models, arrivals and events.

::

    parse_model("kad2007") ─▶ SessionModel(on, off) ──┐
    Equilibrium() | MassJoin(...) ────────────────────┼─▶ churn_events(...) ─▶ (time, node, on/off)
    MassFailure(...), FlashCrowd(...) ────────────────┘

All times are seconds from the start of the simulation. The events depend only on the arguments
and on the ``Random`` that is passed in.
"""

from sims.world.churn.arrivals import Equilibrium, FlashCrowd, MassFailure, MassJoin
from sims.world.churn.events import ChurnEvent, churn_events
from sims.world.churn.lifetimes import Lifetimes
from sims.world.churn.parsing import parse_duration, parse_model
from sims.world.churn.session_models import PRESETS, SessionModel
from sims.world.churn.trace import Trace, read_trace

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
