"""All checks, in the order in which their findings are shown.

Reasons: docs/decisions/0018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from overlay.doctor import clock, exits, files, joining, kernel, limits, network, rights, running
from overlay.doctor.findings import Check, Examination, Setup
from overlay.doctor.in_time import WAIT_S, findings_in_time

__all__ = ["CHECKS", "examine"]

CHECKS: Final = (
    Check("running-node", running.running_node),
    Check("keys", files.key_file),
    Check("state", files.state_directory),
    Check("control", files.control_socket),
    Check("udp", network.udp_ports),
    Check("reachable", network.reachability),
    Check("bootstrap", joining.bootstrap_nodes),
    Check("datagram-filters", joining.datagram_filters),
    Check("mtu", network.device_mtu),
    Check("links", network.link_sizes),
    Check("clock", clock.clock),
    Check("privileges", rights.privileges),
    Check("tun", rights.tun_device),
    Check("filter", rights.packet_filter),
    Check("traffic-control", rights.traffic_control),
    Check("way-out", network.way_out),
    Check("forwarding", network.forwarding),
    Check("exit", exits.exit_role),
    Check("relay", exits.relay_filters),
    Check("reverse-path", network.reverse_path),
    Check("tables", limits.kernel_tables),
    Check("kernel-settings", kernel.kernel_settings),
    Check("esp", kernel.esp_suites),
    Check("encapsulation", kernel.udp_encapsulation),
    Check("flow-labels", kernel.flow_labels),
    Check("large-packets", kernel.large_packets),
    Check("namespaces", rights.namespaces),
)


def examine(
    setup: Setup, checks: Sequence[Check] = CHECKS, *, wait_s: float = WAIT_S
) -> Examination:
    """Run all checks and return their findings; a check that does not end in time is unknown.

    Args:
        setup: the node to examine for.
        checks: the checks to run.
        wait_s: longest wait for all checks together, in seconds. They usually take 0.3 s.
    """
    setup = replace(setup, running=running.ask_running_node(setup))
    return Examination(setup, tuple(findings_in_time(setup, checks, wait_s)))
