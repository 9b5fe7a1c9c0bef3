"""A node whose SAs a laboratory may read: ``overlay`` with an engine that writes down its keys.

``python3 -m lab.watched KEYFILE overlay-arguments...`` is the product's command line, except
that every SA that is installed also goes to KEYFILE, one JSON object a line. Nothing of the
product can do that; it exists so that tshark and scapy can judge real captures.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from overlay.addresses import format_address
from overlay.cli.main import main as overlay_main
from overlay.ipsec.interface import IpsecConfiguration, SecurityAssociation
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node import run_node

__all__ = ["WatchedSa", "main", "read_key_file"]


@dataclass(frozen=True, slots=True)
class WatchedSa:
    """One SA as a laboratory saw it installed; addresses as text, keys as hexadecimal digits."""

    spi: int
    source: str
    destination: str
    suite: str
    keymat: str
    inbound: bool
    link: bool


class WatchedEngine(UserspaceEngine):
    """A userspace engine that writes down what is installed."""

    def __init__(self, key_file: Path) -> None:
        super().__init__(rng=SystemRandom())
        self._key_file = key_file

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install, then write the SAs down."""
        super().install(configuration)
        with self._key_file.open("a") as file:
            for association in configuration.associations:
                file.write(json.dumps(_written(association)) + "\n")


def read_key_file(path: Path) -> Iterator[WatchedSa]:
    """Yield the SAs that a watched node wrote down."""
    for line in path.read_text().splitlines():
        yield WatchedSa(**json.loads(line))


def _written(association: SecurityAssociation) -> dict[str, object]:
    return {
        "spi": association.spi,
        "source": format_address(association.source),
        "destination": format_address(association.destination),
        "suite": SUITES[association.suite].name,
        "keymat": association.keymat.reveal().hex(),
        "inbound": association.inbound,
        "link": association.encapsulation is not None,
    }


def main(argv: list[str]) -> int:
    """Run the command line behind the name of the key file; return its status."""
    engine = WatchedEngine(Path(argv[0]))
    return overlay_main(argv[1:], run_node=functools.partial(run_node, engine=engine))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
