"""Sum up a capture: which hosts exchanged packets, in which protocol, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.reading import ARP, TCP, UDP, Packet, read_packets

__all__ = ["BULK_BYTES", "Sighting", "sightings", "told"]

BULK_BYTES: Final = 1_000_000
"""Bytes between two hosts above which the traffic is the download and not control traffic."""

_NON_ESP_MARKER: Final = bytes(4)
_CONTROL: Final = "overlay control"


@dataclass(frozen=True, slots=True)
class Sighting:
    """All captured packets between two hosts in one protocol."""

    source: str
    destination: str
    what: str
    packets: int
    total_bytes: int

    def involves(self, name: str) -> bool:
        """Tell whether ``name`` is one of the two hosts."""
        return name in (self.source, self.destination)

    def bulk_with(self, name: str) -> bool:
        """Tell whether the download's volume passed between ``name`` and the other host."""
        return self.involves(name) and self.total_bytes >= BULK_BYTES

    def peer_of(self, name: str) -> str:
        """Return the other host."""
        return self.destination if self.source == name else self.source

    def __str__(self) -> str:
        return (
            f"{self.source:>6} -> {self.destination:<6} {self.what:<24}"
            f"{self.packets:>8,} packets {self.total_bytes:>12,} bytes"
        )


def sightings(capture: Path, names: Mapping[str, str]) -> list[Sighting]:
    """Sum up a capture without ARP; ``names`` maps addresses to hosts."""
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for packet in read_packets(capture):
        if packet.protocol == ARP:
            continue
        source = names.get(packet.source, packet.source)
        destination = names.get(packet.destination, packet.destination)
        key = (source, destination, _kind(packet))
        packets, size = sums.get(key, (0, 0))
        sums[key] = (packets + 1, size + packet.length)
    found = [Sighting(*key, *value) for key, value in sums.items()]
    return sorted(found, key=lambda s: -s.total_bytes)


def told(seen: list[Sighting]) -> list[str]:
    """Return the lines to print: hosts that exchanged data, and all control traffic as one line."""
    lines = [str(sighting) for sighting in seen if sighting.what != _CONTROL]
    control = [sighting for sighting in seen if sighting.what == _CONTROL]
    if control:
        packets = sum(sighting.packets for sighting in control)
        hosts = {name for s in control for name in (s.source, s.destination)}
        lines.append(f"and {packets:,} packets of overlay control between {len(hosts)} nodes")
    return lines


def _kind(packet: Packet) -> str:
    if packet.protocol == UDP:
        if packet.payload.startswith(_NON_ESP_MARKER):
            return _CONTROL
        return "ESP in UDP (encrypted)"
    if packet.protocol == TCP:
        http = 80 in (packet.source_port, packet.destination_port)
        return "TCP port 80 (HTTP)" if http else "TCP"
    return f"IP protocol {packet.protocol}"
