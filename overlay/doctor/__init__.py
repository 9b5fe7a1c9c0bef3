"""Check a host for everything that a node needs, before the node starts.

::

    Setup ──> each check of the registry ──> Findings ──> Examination ──> text, JSON, status
                └── carries out the operation itself and undoes it at once

The checks create SAs between unused addresses, a TUN device and sockets, and remove each of them
within milliseconds. Nothing else on the host changes.
"""

from overlay.doctor.findings import Examination, Finding, Outcome, Purpose, Setup
from overlay.doctor.registry import CHECKS, examine

__all__ = ["CHECKS", "Examination", "Finding", "Outcome", "Purpose", "Setup", "examine"]
