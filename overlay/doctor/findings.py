"""The values of an examination: the node to examine for, the findings, and what needs them."""

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
    """The check cannot decide, or the thing works worse than it should."""


class Purpose(enum.Enum):
    """What needs the thing that a check examines."""

    NODE = "every node"
    EXIT = "an exit"
    KERNEL = "backend xfrm"
    KERNEL_RELAY = "a relay on backend xfrm"
    OWN_PATHS = "paths of your own"
    LABORATORY = "demo and laboratory"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The running node of this configuration.

    Attributes:
        status: its answer, None if it did not answer in time.
        waited_s: seconds until the answer or until the doctor stopped waiting.
    """

    status: StatusReport | None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setup:
    """The node to examine for.

    Attributes:
        configuration: its settings.
        path: its configuration file, None if the settings are the defaults.
        running: the node that runs with this configuration, None if there is none.
    """

    configuration: Configuration
    path: Path | None = None
    running: NodeStatus | None = None

    @property
    def status(self) -> StatusReport | None:
        """The status report of the running node, None if no node answered."""
        return self.running.status if self.running is not None else None

    @property
    def purposes(self) -> frozenset[Purpose]:
        """The purposes that must be met for this node to run as it is configured.

        Kernel ESP is absent for backend ``auto``, which can use the userspace backend instead. Own
        paths are absent because a node runs without them.
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
    """The result of one check for one subject.

    Attributes:
        subject: the thing that was examined.
        outcome: whether it works.
        said: text for the user. If the outcome is LACKS, it is one sentence with the remedy, which
            is a command or a setting.
        needed_for: what depends on the thing.
    """

    subject: str
    outcome: Outcome
    said: str
    needed_for: tuple[Purpose, ...] = (Purpose.NODE,)

    def required_by(self, purposes: frozenset[Purpose]) -> bool:
        """Tell whether at least one of these purposes needs the subject."""
        return not purposes.isdisjoint(self.needed_for)


@dataclass(frozen=True, slots=True)
class Check:
    """A named check. ``run`` reports errors as findings and raises no ``OverlayError``."""

    name: str
    run: Callable[[Setup], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, each with the name of its check."""

    setup: Setup
    findings: tuple[tuple[str, Finding], ...]

    @property
    def obstacles(self) -> tuple[Finding, ...]:
        """The findings that keep the configured node from running."""
        purposes = self.setup.purposes
        return tuple(
            finding
            for _, finding in self.findings
            if finding.outcome is Outcome.LACKS and finding.required_by(purposes)
        )

    @property
    def backend(self) -> tuple[str, str]:
        """The IPsec backend that the node would use on this host, and a clause that says why."""
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
        """Whether no finding keeps the configured node from running."""
        return not self.obstacles


def tried(
    subject: str,
    needed_for: tuple[Purpose, ...],
    attempt: Callable[[], str],
) -> Finding:
    """Return the finding of an operation that a node needs.

    Args:
        subject: the thing that is examined.
        needed_for: what depends on it.
        attempt: carries out the operation and returns the text for success. Its BackendError or
            ConfigurationError becomes a finding with outcome LACKS and the same message.
    """
    try:
        return Finding(subject, Outcome.WORKS, attempt(), needed_for)
    except (BackendError, ConfigurationError) as error:
        return Finding(subject, Outcome.LACKS, str(error), needed_for)
