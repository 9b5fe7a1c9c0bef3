"""Run ``overlay`` with an engine that writes its keys to a file for the laboratory.

``python3 -m lab.watched KEYFILE overlay-arguments...`` is the product's command line, except that
every installed SA is also written to KEYFILE, as one JSON object per line. With these keys, tshark
and scapy can decrypt real captures. The product itself cannot write keys.
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
    """One installed SA, with addresses as text and keys as hexadecimal digits."""

    spi: int
    source: str
    destination: str
    suite: str
    keymat: str
    inbound: bool
    link: bool


class WatchedEngine(UserspaceEngine):
    """A userspace engine that writes every installed SA to a file."""

    def __init__(self, key_file: Path) -> None:
        super().__init__(rng=SystemRandom())
        self._key_file = key_file

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install the configuration, then write its SAs to the file."""
        super().install(configuration)
        with self._key_file.open("a") as file:
            for association in configuration.associations:
                file.write(json.dumps(_written(association)) + "\n")


def read_key_file(path: Path) -> Iterator[WatchedSa]:
    """Yield the SAs that such a node has written."""
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
    """Run the command line that follows the name of the key file; return its status."""
    engine = WatchedEngine(Path(argv[0]))
    return overlay_main(argv[1:], run_node=functools.partial(run_node, engine=engine))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
