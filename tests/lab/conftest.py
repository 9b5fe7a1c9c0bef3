"""Fixtures of the laboratory: real namespaces, TUN devices, packet filters and captures."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_case import pytest_configure  # noqa: F401 - a hook: the mark "kernel"

from lab.namespaces import Namespace, missing_requirements
from lab.underlay import Underlay

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Everything below this directory is a laboratory test."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def laboratory():
    """Skip where the laboratory cannot be built; on CI that is a failure."""
    missing = missing_requirements()
    if missing and os.environ.get("CI"):
        pytest.fail(" ".join(missing))
    if missing:
        pytest.skip(" ".join(missing))


@pytest.fixture
def namespace(laboratory):
    with Namespace("alone") as made:
        yield made


@pytest.fixture
def underlay(laboratory):
    with Underlay() as made:
        yield made


@pytest.fixture
def wire_underlay(laboratory):
    """An underlay whose captures show each packet by itself, as a wire would."""
    with Underlay(wire_packets=True) as made:
        yield made


@pytest.fixture
def exchange():
    """Pass one datagram of each family from host to host, behind all that was sent before."""

    def send_and_receive(sender, receiver):
        for address in (str(receiver.ipv4.ip), str(receiver.ipv6.ip)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with (
                receiver.namespace.call(lambda f=family: socket.socket(f, socket.SOCK_DGRAM)) as to,
                sender.namespace.call(lambda f=family: socket.socket(f, socket.SOCK_DGRAM)) as of,
            ):
                to.bind((address, 0))
                to.settimeout(60)
                of.sendto(b"control", to.getsockname())
                assert to.recv(100) == b"control"

    return send_and_receive


class Script:
    """A Python program in a namespace, to be killed; it prints a line when it is ready."""

    def __init__(self, namespace, source):
        self.process = namespace.popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=str(_HERE.parent.parent)),
        )
        self.said = self.process.stdout.readline().decode().strip()

    def tell(self, line):
        """Write it a line, and return the one that it prints then."""
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def kill(self):
        """Kill it as a crash would (SIGKILL), and wait until it is gone."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def script():
    """Start a program in a namespace and wait for its first line."""
    started = []

    def start(namespace, source):
        started.append(Script(namespace, source))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.process.stdin.close()
        each.process.stdout.close()
