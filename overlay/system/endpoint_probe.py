"""Find out why a UDP endpoint does not answer, from the errors that the kernel reports.

The kernel reports an ICMP error for a connected socket: "port unreachable" if no program has the
port, "host unreachable" if no host has the address. If a packet filter of this host drops a
datagram on its way out, sending fails.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.system.marks import NODE_MARK
from overlay.system.udp import bound_socket

__all__ = ["endpoint_errors"]

_KEEPALIVE: Final = b"\xff"
"""A NAT-keepalive packet, which receivers ignore (RFC 3948, section 2.3)."""

_TRIES: Final = 3
"""Keepalives to an endpoint, because Linux sends one ICMP error in a second to a host, and the node
itself sends datagrams to the endpoint (icmp_ratelimit in ip-sysctl)."""

_WAIT_S: Final = 0.4
"""Longest wait for an ICMP error after a try; most round trips on the Internet are shorter."""


def endpoint_errors(endpoints: Iterable[Endpoint]) -> dict[Endpoint, int]:
    """Send keepalives to each endpoint; return the errno for each that caused an error.

    This takes at most 1.2 s. Endpoints that are silent are absent from the result.
    """
    errors: dict[Endpoint, int] = {}
    with ExitStack() as stack:
        waiting: dict[socket.socket, Endpoint] = {}
        for endpoint in dict.fromkeys(endpoints):
            try:
                waiting[stack.enter_context(_connected(endpoint))] = endpoint
            except BackendError:
                continue  # this kernel does not support the IP version
            except OSError as error:
                errors[endpoint] = error.errno or 0
        for _ in range(_TRIES):
            for probe in list(waiting):
                try:
                    probe.send(_KEEPALIVE)
                except OSError as error:
                    errors[waiting.pop(probe)] = error.errno or 0
            _collect(waiting, errors)
    return errors


def _collect(waiting: dict[socket.socket, Endpoint], errors: dict[Endpoint, int]) -> None:
    """Wait for errors of some sockets; move what has one from ``waiting`` to ``errors``."""
    end = time.monotonic() + _WAIT_S
    while waiting and (left_s := end - time.monotonic()) > 0:
        ready, _, _ = select.select(list(waiting), [], [], left_s)
        for probe in ready:
            endpoint = waiting.pop(probe)
            number = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                errors[endpoint] = number


def _connected(endpoint: Endpoint) -> socket.socket:
    wildcard = Endpoint("::" if ":" in endpoint.host else "0.0.0.0", 0)
    probe = bound_socket(wildcard, mark=NODE_MARK)  # the kill switch accepts the node's mark
    try:
        probe.connect(endpoint)
    except BaseException:
        probe.close()
        raise
    return probe
