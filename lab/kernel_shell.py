"""Run a shell inside the kernel laboratory, with the hosts of the demonstration.

``make kernel-shell`` starts it there. The hosts are those of ``lab/demo.py``, without nodes. They
have names for ``ip netns``, because the laboratory has its own /run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from lab.kernel import in_kernel
from lab.namespaces import LabError
from lab.underlay import LaboratoryHost, Underlay

__all__ = ["main"]

_NAMES: Final = ("boot", *(f"mix{n}" for n in range(1, 6)), "exit1", "exit2", "alice")
_HINTS: Final = """
ESP, TUN, netem and tbf are there; packet filters are iptables-legacy and ip6tables-legacy.
What you write to files is gone when you leave. For example:

  ip netns exec alice ping -c 1 203.0.113.10
  ip netns exec mix1 ip xfrm state
  python3 -m overlay --help
  python3 -m lab.demo          the whole demonstration, in hosts of its own (a few minutes)
  exit                        ends the kernel
"""


def main() -> int:
    """Build the hosts and run a shell until it ends; 1 if the hosts could not be built."""
    if not in_kernel():
        print("kernel-shell: this runs inside the kernel laboratory: make kernel-shell")
        return 1
    print(f"Linux {os.uname().release}; building the hosts of the demonstration ...", flush=True)
    try:
        with Underlay(wire_packets=True) as underlay:
            for name in _NAMES:
                _name(underlay.add_host(name))
            _name(underlay.add_server("bob"))
            print(_HINTS, flush=True)
            _shell()
    except LabError as error:
        print(f"kernel-shell: {error}", file=sys.stderr)
        return 1
    return 0


def _name(host: LaboratoryHost) -> None:
    subprocess.run(["ip", "netns", "attach", host.name, str(host.namespace.pid)], check=True)
    print(f"  {host.name:8}{host.ipv4.ip!s:16}{host.ipv6.ip}", flush=True)


def _shell() -> None:
    python = os.path.dirname(sys.executable)  # the virtual environment's "python" comes first
    environment = os.environ | {
        "PATH": f"{python}:{os.environ['PATH']}",
        "PS1": r"kernel:\w\$ ",
    }
    subprocess.run(["bash", "--norc", "-i"], check=False, env=environment)


if __name__ == "__main__":
    sys.exit(main())
