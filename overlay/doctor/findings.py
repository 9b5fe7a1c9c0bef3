"""The values of an examination: what was asked, what was found, and whom it concerns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from overlay.config import Configuration
from overlay.control.service import StatusReport
from overlay.errors import BackendError, ConfigurationError

__all__ = ["Check", "Examination", "Finding", "NodeStatus", "Outcome", "Purpose", "Setup", "tried"]


class Outcome(enum.Enum):
    """How a check ended."""

    WORKS = "works"
    LACKS = "lacks"
    UNKNOWN = "unknown"
    """It cannot be told from here, or works worse than it should."""


class Purpose(enum.Enum):
    """What a thing is needed for."""

    NODE = "every node"
    EXIT = "an exit"
    KERNEL = "backend xfrm"
    KERNEL_RELAY = "a relay on backend xfrm"
    OWN_PATHS = "paths of your own"
    LABORATORY = "demo and laboratory"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The node of this configuration that runs; ``status`` is None if it did not answer in time.

    ``waited_s`` is how long its answer took, or was waited for, in seconds.
    """

    status: StatusReport | None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setup:
    """The node to examine for.

    ``path`` is its configuration file, None for the defaults alone. ``running`` is the node that
    runs with it, if one does.
    """

    configuration: Configuration
    path: Path | None = None
    running: NodeStatus | None = None

    @property
    def status(self) -> StatusReport | None:
        """What the running node says of itself, None if no node answered."""
        return self.running.status if self.running is not None else None

    @property
    def purposes(self) -> frozenset[Purpose]:
        """What must be possible for this node to run as it is configured.

        ``auto`` does without the kernel's ESP, and a node whose user opens no paths without
        what paths need; neither keeps it from running.
        """
        roles, kernel = self.configuration.roles, self.configuration.ipsec.backend == "xfrm"
        wanted = {
            Purpose.NODE: True,
            Purpose.EXIT: roles.exit,
            Purpose.KERNEL: kernel,
            Purpose.KERNEL_RELAY: kernel and (roles.relay or roles.exit),
        }
        return frozenset(purpose for purpose, needed in wanted.items() if needed)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``said`` tells what was found; of what lacks it is one sentence with the remedy, a command
    or a setting. ``needed_for`` is empty for what nothing depends on.
    """

    subject: str
    outcome: Outcome
    said: str
    needed_for: tuple[Purpose, ...] = (Purpose.NODE,)

    def required_by(self, purposes: frozenset[Purpose]) -> bool:
        """Tell whether any of these purposes needs it."""
        return not purposes.isdisjoint(self.needed_for)


@dataclass(frozen=True, slots=True)
class Check:
    """A name, and the function that looks; it raises nothing of ours."""

    name: str
    run: Callable[[Setup], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found, by check."""

    setup: Setup
    findings: tuple[tuple[str, Finding], ...]

    @property
    def obstacles(self) -> tuple[Finding, ...]:
        """What lacks although the configured node needs it."""
        purposes = self.setup.purposes
        return tuple(
            finding
            for _, finding in self.findings
            if finding.outcome is Outcome.LACKS and finding.required_by(purposes)
        )

    @property
    def backend(self) -> tuple[str, str]:
        """Which IPsec backend the node would run with here, and why, as a clause."""
        configured = self.setup.configuration.ipsec.backend
        if configured != "auto":
            return configured, "[ipsec] backend names it"
        roles, wanted = self.setup.configuration.roles, {Purpose.KERNEL}
        if roles.relay or roles.exit:
            wanted.add(Purpose.KERNEL_RELAY)
        for _, finding in self.findings:
            if finding.outcome is Outcome.LACKS and finding.required_by(frozenset(wanted)):
                return "userspace", f"{finding.subject}: {finding.said.rstrip('.')}"
        return "xfrm", "this kernel can do what is configured"

    @property
    def can_run(self) -> bool:
        """Whether nothing stands in the way of the configured node."""
        return not self.obstacles


def tried(
    subject: str,
    needed_for: tuple[Purpose, ...],
    attempt: Callable[[], str],
) -> Finding:
    """Do what a node would do; its refusal, already a sentence, is what lacks.

    ``attempt`` returns what to say of success.
    """
    try:
        return Finding(subject, Outcome.WORKS, attempt(), needed_for)
    except (BackendError, ConfigurationError) as error:
        return Finding(subject, Outcome.LACKS, str(error), needed_for)
