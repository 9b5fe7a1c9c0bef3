"""``overlay doctor``: show whether this host can run the configured node, and how to fix it."""

from __future__ import annotations

import argparse
import textwrap
from typing import Final

from overlay.cli.answers import CommandOutput
from overlay.cli.places import CONFIGURATION_FILE, own_directory
from overlay.cli.tables import printable
from overlay.config import Configuration, load_configuration
from overlay.doctor import Examination, Finding, Outcome, Setup, examine

__all__ = ["examination_answer", "examined", "setup_of"]

_WIDTH: Final = 100
_NOTE: Final = (
    "Nothing on this host was changed: the security associations, devices and sockets that the\n"
    "checks created are removed again."
)


def examined(arguments: argparse.Namespace) -> tuple[CommandOutput, bool]:
    """Examine this host; return the answer and whether the configured node can run.

    Raises:
        ConfigurationError: the configuration has an error, or the named file is missing.
    """
    examination = examine(setup_of(arguments), wait_s=arguments.wait)
    return examination_answer(examination), examination.can_run


def setup_of(arguments: argparse.Namespace) -> Setup:
    """Return the named configuration, the user's default file, or defaults if no file exists."""
    path = arguments.config or own_directory() / CONFIGURATION_FILE
    if arguments.config is None and not path.exists():
        return Setup(Configuration())
    return Setup(load_configuration(path), path)


def examination_answer(examination: Examination) -> CommandOutput:
    """Return the examination as text and as JSON."""
    purposes = examination.setup.purposes
    verdict = _running_verdict(examination.setup)
    lines = [*verdict, f"Examined for {_node(examination.setup)}.", ""]
    width = max((len(finding.subject) for _, finding in examination.findings), default=0)
    for _, finding in examination.findings:
        required = finding.required_by(purposes)
        lines += _finding_lines(finding, required=required, width=width)
    lines += ["", _verdict(examination), *_backend_lines(examination), _NOTE]
    backend, reason = examination.backend
    plain = {
        "configuration": str(examination.setup.path) if examination.setup.path else None,
        "can_run": examination.can_run,
        "verdict": verdict[0] if verdict else None,
        "backend": backend,
        "backend_reason": reason,
        "findings": [
            {
                "check": check,
                "subject": finding.subject,
                "outcome": finding.outcome.value,
                "required": finding.required_by(purposes),
                "needed_for": [purpose.value for purpose in finding.needed_for],
                "said": finding.said,
            }
            for check, finding in examination.findings
        ],
    }
    return CommandOutput("\n".join(lines), plain)


def _running_verdict(setup: Setup) -> list[str]:
    """Return the running node's summary of its own state as lines; [] if no node answers."""
    status = setup.status
    return [printable(status.verdict), ""] if status is not None else []


def _node(setup: Setup) -> str:
    roles = [
        name for name, has in (("relay", setup.configuration.roles.relay),
                               ("exit", setup.configuration.roles.exit)) if has
    ]  # fmt: skip
    what = f"a node ({', '.join(roles) or 'no roles'}; backend {setup.configuration.ipsec.backend})"
    if setup.path is None:
        return f"{what} with default settings, because no configuration was found"
    return f"{what} as configured in {setup.path}"


def _backend_lines(examination: Examination) -> list[str]:
    name, reason = examination.backend
    return textwrap.wrap(printable(f"Its IPsec backend would be {name} ({reason})."), _WIDTH)


def _finding_lines(finding: Finding, *, required: bool, width: int) -> list[str]:
    mark = _mark(finding.outcome, required=required)
    said = finding.said
    if finding.outcome is not Outcome.WORKS:
        said = f"{said[:-1] if said.endswith('.') else said} (needed for: {_purposes(finding)})"
    lead = f"{mark:8}{finding.subject:{width}}  "
    return textwrap.wrap(
        printable(said),
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _mark(outcome: Outcome, *, required: bool) -> str:
    if outcome is Outcome.LACKS:
        return "LACKS" if required else "lacks"
    return "works" if outcome is Outcome.WORKS else "note"


def _purposes(finding: Finding) -> str:
    return ", ".join(purpose.value for purpose in finding.needed_for)


def _verdict(examination: Examination) -> str:
    count = len(examination.obstacles)
    if not count:
        return 'The node can run. Each line marked "lacks" names what does not work without it.'
    return f"The node cannot run: fix everything that is marked LACKS above ({count})."
