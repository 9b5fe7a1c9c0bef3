"""Run a program while its destination has an anonymous path through the node of this host.

    overlay up &
    python3 examples/running_node.py 203.0.113.10 curl -sS http://203.0.113.10/

The node runs as a process of its own (``overlay up``). This program asks it through its control
socket, as the command line does, and needs neither trio nor rights of its own.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from overlay.cli.places import control_socket_of
from overlay.control import ControlClient, OpenPathsRequest
from overlay.destinations import parse_destination
from overlay.errors import OverlayError


def main() -> int:
    """Open a path, run the program and close the path; return the program's status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--socket", type=Path, help="control socket (default: of the default node)")
    parser.add_argument("--hops", type=int, help="Mix-nodes of the path")
    parser.add_argument("destination")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        request = OpenPathsRequest((parse_destination(arguments.destination),), arguments.hops)
        with ControlClient(control_socket_of(None, arguments.socket)) as node:
            [path] = node.open_paths(request)  # returns when the path carries packets
            print(f"path {path.number} through {len(path.hops)} Mix-nodes", file=sys.stderr)
            try:
                return subprocess.run(arguments.program, check=False).returncode
            finally:
                # Until here, packets to the destination leave through the path or not at all.
                node.close_path(path.number)
    except OverlayError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
