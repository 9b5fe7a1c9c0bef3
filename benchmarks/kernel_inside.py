"""Make the measurements of ``kernel.py`` inside the kernel laboratory; print one JSON object.

Every figure is compared with a counterpart in the same run, because system calls are slow inside,
and other load of the host makes both slower.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from random import Random

from by_hand import HandMade, ip_commands

from lab.namespaces import LabError, Namespace
from lab.paper.chain import Chain, destination_address
from lab.paper.circuits import MeasuredCircuit, Overlay, chain_overlay, path_mtu
from overlay.ipsec.interface import IpsecConfiguration
from overlay.ipsec.xfrm.changes import association_changes, policy_changes

SUITE = 3
HOPS = 3
LONGEST = 4
DELAY_S = 0.025
REPETITIONS = 30
OPENINGS = 10
COLD_STARTS = 9
TRANSFER_S = 2
TRANSFERS = 5
_NETLINK_XFRM = 6
_ACKNOWLEDGE = 0x04


def milliseconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


# -- installation ----------------------------------------------------------------------


class RawMessages:
    """The netlink messages of a configuration, encoded beforehand, and a bare socket."""

    def __init__(self, namespace: Namespace, configuration: IpsecConfiguration) -> None:
        changes = [*association_changes(configuration, Random(1)), *policy_changes(configuration)]
        self._socket = namespace.call(
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM)
        )
        self._socket.bind((0, 0))
        self._count = len(changes)
        self._add = b"".join(each.do.encode(_ACKNOWLEDGE, 1) for each in changes)
        self._remove = b"".join(each.undo.encode(_ACKNOWLEDGE, 1) for each in reversed(changes))

    def add(self) -> None:
        """Install the configuration."""
        self._exchange(self._add)

    def remove(self) -> None:
        """Remove the configuration."""
        self._exchange(self._remove)

    def _exchange(self, data: bytes) -> None:
        self._socket.send(data)
        answered = 0
        while answered < self._count:
            answers, at = self._socket.recv(1 << 17), 0
            while at < len(answers):
                if int.from_bytes(answers[at + 16 : at + 20], sys.byteorder, signed=True):
                    raise LabError("the kernel refused a raw message.")
                at += int.from_bytes(answers[at : at + 4], sys.byteorder)
                answered += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def enforcing(overlay: Overlay) -> list[dict[str, object]]:
    """Measure the installation of three hops for each role: by backend, raw, by ``ip -batch``."""
    hand_made = HandMade(overlay.chain, 7, HOPS, SUITE)
    return [
        _enforcing(role, overlay, number, hand_made.circuit_configuration(number))
        for number, role in ((0, "source"), (1, "relay"), (HOPS, "exit"))
    ]


def _enforcing(
    role: str, overlay: Overlay, number: int, configuration: IpsecConfiguration
) -> dict[str, object]:
    namespace, backend = overlay.chain.nodes[number], overlay.nodes[number].backend
    raw = RawMessages(namespace, configuration)
    lines = list(ip_commands(configuration))
    undo = [line.replace(" add ", " del ", 1) for line in reversed(lines)]
    times: dict[str, list[float]] = {"backend": [], "raw": [], "batch": []}
    for _ in range(REPETITIONS):
        times["backend"].append(milliseconds(lambda: backend.install(configuration)))
        backend.remove(configuration)
        times["raw"].append(milliseconds(raw.add))
        raw.remove()
    for _ in range(REPETITIONS // 5):
        took = milliseconds(lambda: namespace.configure(lines))
        namespace.configure([_deleting(line) for line in undo])
        # The start of a program takes most of the time here, so it is measured and subtracted.
        times["batch"].append(took - milliseconds(lambda: namespace.configure([])))
    raw.close()
    found = {name: statistics.median(values) for name, values in times.items()}
    return {
        "role": role,
        "associations": len(configuration.associations),
        "policies": len(configuration.policies),
        "addresses": len(configuration.local_addresses),
        "install_ms": round(found["backend"], 3),
        "raw_messages_ms": round(found["raw"], 3),
        "ip_batch_ms": round(found["batch"], 3),
        "of_raw": round(found["backend"] / found["raw"], 2),
        "of_ip_batch": round(found["backend"] / found["batch"], 2),
    }


def _deleting(line: str) -> str:
    """Reduce a command to the part that identifies an entry."""
    if line.startswith("xfrm state"):
        return line[: line.index(" reqid ")]
    if line.startswith("xfrm policy"):
        return line[: line.index(" priority ")]
    return line


# -- throughput ------------------------------------------------------------------------


def throughput(overlay: Overlay) -> list[dict[str, object]]:
    """Measure TCP for each number of hops, through circuits of APM and through hand-made ones."""
    routes = overlay.open_all(LONGEST, limit_mtu=False)
    ours = {hops: routes[SUITE, hops] for hops in range(LONGEST + 1)}
    by_hand = {}
    for hops in range(1, LONGEST + 1):
        made = HandMade(overlay.chain, 1, hops, SUITE)
        made.install()
        by_hand[hops] = made.route
    _limit_mtu(overlay.chain, [*ours.values(), *by_hand.values()])
    server = overlay.chain.destination.popen(
        ["iperf3", "--server"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.5)
    rounds = [_round(overlay.chain.nodes[0], ours, by_hand, Random(i)) for i in range(TRANSFERS)]
    server.terminate()
    return [_throughput_row(hops, rounds) for hops in range(LONGEST + 1)]


Round = dict[tuple[str, int], float]
"""Rates in Mbit/s by the origin of the tunnels and their number."""


def _round(
    source: Namespace,
    ours: dict[int, MeasuredCircuit],
    by_hand: dict[int, MeasuredCircuit],
    rng: Random,
) -> Round:
    """Transfer once through each tunnel, in random order; without hops both origins are one."""
    order = [("ours", hops, route) for hops, route in ours.items()]
    order += [("by hand", hops, route) for hops, route in by_hand.items()]
    rng.shuffle(order)
    found = {(who, hops): _transfer(source, route) for who, hops, route in order}
    return found | {("by hand", 0): found["ours", 0]}


def _throughput_row(hops: int, rounds: Sequence[Round]) -> dict[str, object]:
    """Return one row; its ratios are medians of the ratios of all rounds."""

    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(each) for each in rounds)

    return {
        "hops": hops,
        "mbit_s": round(median(lambda each: each["ours", hops]), 1),
        "by_hand_mbit_s": round(median(lambda each: each["by hand", hops]), 1),
        "of_no_hops": round(median(lambda each: each["ours", hops] / each["ours", 0]), 3),
        "of_by_hand": round(median(lambda each: each["ours", hops] / each["by hand", hops]), 3),
    }


def _limit_mtu(chain: Chain, routes: Sequence[MeasuredCircuit]) -> None:
    mtu = path_mtu(SUITE)
    chain.nodes[0].configure(
        [
            f"route add {route.destination} via 10.6.0.2 mtu {mtu} advmss {mtu - 40}"
            for route in routes
            if route.tunnels
        ]
    )


def _transfer(source: Namespace, route: MeasuredCircuit) -> float:
    command = ["iperf3", "--json", "--time", str(TRANSFER_S), "--omit", "1"]
    ends = ["--bind", str(route.source), "--client", str(route.destination)]
    answer = json.loads(source.run([*command, *ends]).stdout)
    return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e6


# -- set-up ----------------------------------------------------------------------------


def setting_up() -> dict[str, object]:
    """Measure the time from a request to an open circuit, over links of 25 ms in each direction."""
    delays = [f"delay {DELAY_S * 1000:g}ms"] * HOPS
    warm: list[float] = []
    cold: list[float] = []
    with Chain(delays, groups=OPENINGS + 1) as chain:
        for start in range(COLD_STARTS):
            with chain_overlay(chain, [SUITE]) as overlay:
                cold.append(_opening(overlay, 0))
                if start == 0:
                    warm = [_opening(overlay, number + 1) for number in range(OPENINGS)]
    least = round(2 * HOPS * DELAY_S * 1000, 1)
    # A link handshake is one round trip, which must end before the onion is forwarded.
    least_cold = round(least + HOPS * 2 * DELAY_S * 1000, 1)
    return {
        "hops": HOPS,
        "link_delay_ms": DELAY_S * 1000,
        "least_ms": least,
        "links_up_ms": round(statistics.median(warm), 1),
        "links_up_of_least": round(statistics.median(warm) / least, 3),
        "cold_least_ms": least_cold,
        "cold_ms": round(statistics.median(cold), 1),
        "cold_of_least": round(statistics.median(cold) / least_cold, 3),
        "cold_worst_ms": round(max(cold), 1),
    }


def _opening(overlay: Overlay, group: int) -> float:
    destination = destination_address(group, HOPS)
    took = milliseconds(lambda: overlay.open(SUITE, HOPS, destination))
    overlay.rest()  # so that its key exchange ends before the next circuit
    return took


def main() -> None:
    with (
        Chain([""] * LONGEST, groups=8, wire_packets=True) as chain,
        chain_overlay(chain, [SUITE]) as overlay,
    ):
        overlay.connect()
        result: dict[str, object] = {
            "kernel": f"Linux {os.uname().release}",
            "enforcing": enforcing(overlay),
            "throughput": throughput(overlay),
        }
    result["setting_up"] = setting_up()
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"kernel: {error}")
