"""Pings that are all waited for.

``ping -c 3 -W 5`` waits five seconds for its last answer only if no answer came before. Otherwise
it waits for two round trips or one interval, whichever is longer (iputils, ping(8), ``-W``). So an
answer that a busy host delays counts as lost, although no packet was lost. Here each ping is a run
of the program, so that each answer has the whole time.
"""

from __future__ import annotations

import ipaddress
import shlex
import subprocess

from lab.namespaces import Namespace

__all__ = ["pings"]


def pings(
    namespace: Namespace,
    target: str | ipaddress.IPv4Address | ipaddress.IPv6Address,
    *options: str,
    count: int,
    patience_s: int = 20,
) -> subprocess.CompletedProcess[str]:
    """Ping ``target`` so many times, one after the other, until one gets no answer.

    ``options`` are the program's own. The exit status is 0 if each got an answer within
    ``patience_s`` seconds.
    """
    each = shlex.join(["ping", "-c", "1", "-W", str(patience_s), *options, str(target)])
    return namespace.run(
        ["sh", "-c", " && ".join([each] * count)], check=False, timeout_s=count * patience_s + 60
    )
