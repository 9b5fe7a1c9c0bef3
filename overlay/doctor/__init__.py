"""What a node needs of its host, tried beforehand: what works, what does not, how to mend it.

::

    Setup ──> each check of the registry ──> Findings ──> Examination ──> text, JSON, status
                └── tries the real thing and takes it back at once

Nothing on the host is changed for longer than a trial takes: SAs between addresses that
nobody has, a TUN device and bound sockets, each gone again within milliseconds.
"""

from overlay.doctor.findings import Examination, Finding, Outcome, Purpose, Setup
from overlay.doctor.registry import CHECKS, examine

__all__ = ["CHECKS", "Examination", "Finding", "Outcome", "Purpose", "Setup", "examine"]
