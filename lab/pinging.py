"""Send pings and wait for each answer for the full time.

``ping -c 3 -W 5`` waits five seconds for its last answer only if no answer came before. Otherwise
it waits for two round trips or one interval, whichever is longer (iputils, ping(8), ``-W``). So an
answer that a busy host delays counts as lost, although no packet was lost. Here each ping is a
separate run of the program, so that it waits for each answer for the full time.
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
    """Ping ``target`` the given number of times, one after the other, until one gets no answer.

    ``options`` are options of ping. The exit status is 0 if each ping got an answer within
    ``patience_s`` seconds.
    """
    each = shlex.join(["ping", "-c", "1", "-W", str(patience_s), *options, str(target)])
    return namespace.run(
        ["sh", "-c", " && ".join([each] * count)], check=False, timeout_s=count * patience_s + 60
    )
