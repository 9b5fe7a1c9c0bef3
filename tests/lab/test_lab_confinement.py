"""A real node holds few rights, and no local user without rights can be in its way."""

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.nodes import NodeProcess, wait_until
from lab.underlay import Underlay
from overlay.errors import BackendError
from overlay.system.kill_switch import KillSwitch
from overlay.system.ownership import Ownership

NAMES = ("guard-28009", "kernel-ipsec", "exit")
"""What nodes own; 28009 is the number of the kill switch's routing table."""


def squatter(namespace):
    """A process without any capability that takes every name it can think of."""
    source = """
import socket, sys
held = []
for name in sys.argv[1:]:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        for prefix in ("anonymous-overlay-", "ao-", ""):
            taken = socket.socket(socket.AF_UNIX, kind)
            try:
                taken.bind("\\0" + prefix + name)
            except OSError:
                continue
            held.append(taken)
from overlay.errors import BackendError
from overlay.system.ownership import Ownership
for name in sys.argv[1:]:
    try:
        Ownership(name, "remedy")
        print("owned", name)
    except BackendError:
        pass
print("done", flush=True)
sys.stdin.read()
"""
    return namespace.popen(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
         sys.executable, "-c", source, *NAMES],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_a_local_user_without_rights_keeps_no_node_from_what_it_owns(namespace):
    holder = squatter(namespace)
    try:
        assert holder.stdout.readline().decode().strip() == "done"
        for name in NAMES:
            namespace.call(lambda n=name: Ownership(n, "remedy")).release()
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def test_the_second_owner_is_refused_and_the_name_is_free_after_a_kill(namespace, script):
    take = "from overlay.system.ownership import Ownership; o = Ownership('exit', 'wait'); "
    first = script(namespace, take + "print('up', flush=True); import sys; sys.stdin.read()")
    assert first.said == "up"
    with pytest.raises(BackendError, match="another node in this network namespace owns exit"):
        namespace.call(lambda: Ownership("exit", "wait"))
    first.kill()
    namespace.call(lambda: Ownership("exit", "wait")).release()


@pytest.mark.parametrize(
    "command",
    ["ip link delete ao-exit", "ip link set ao-exit name other", "ip link set ao-exit netns 1"],
)
def test_a_lock_whose_device_another_program_takes_away_is_taken_again(namespace, command):
    if command.endswith("netns 1"):
        command = command.replace("netns 1", f"netns {os.getpid()}")
    lock = namespace.call(lambda: Ownership("exit", "wait"))
    try:
        assert not namespace.call(lock.retake)
        namespace.run(command.split())
        assert namespace.call(lock.retake)
        assert not namespace.call(lock.retake)
        with pytest.raises(BackendError, match="owns exit"):
            namespace.call(lambda: Ownership("exit", "wait"))
        namespace.run(["ip", "link", "delete", "ao-exit"])
        other = namespace.call(lambda: Ownership("exit", "wait"))
        for _ in range(2):
            with pytest.raises(BackendError, match="another node in this network namespace owns"):
                namespace.call(lock.retake)
        other.release()
        assert namespace.call(lock.retake)
    finally:
        lock.release()


def test_a_kill_switch_without_its_lock_takes_it_again_or_changes_nothing(namespace):
    prefix = ipaddress.ip_network("203.0.113.10/32")

    def lose_twice():
        with KillSwitch() as first:
            first.protect(prefix)
            first.repair()
            remove_lock()
            assert first.repair() == ("lock",)
            assert first.repair() == ()
            remove_lock()
            with KillSwitch() as second:
                assert second.protected() == [prefix]
                second.release(prefix)
                for change in (first.repair, lambda: first.protect(prefix)):
                    with pytest.raises(BackendError, match="owns the protection"):
                        change()
                assert second.protected() == []

    def remove_lock():
        namespace.run(["ip", "link", "delete", "ao-guard-28009"])

    namespace.call(lose_twice)


def test_a_lock_carries_nothing(namespace):
    lock = namespace.call(lambda: Ownership("exit", "wait"))
    try:
        said = namespace.run(["ip", "-o", "link", "show", "ao-exit"]).stdout
        assert "UP" not in said.partition("mtu")[0].split("<")[1]
        assert "ao-exit" not in namespace.run(["ip", "-o", "address"]).stdout
    finally:
        lock.release()
    assert "ao-exit" not in {n for _, n in namespace.call(socket.if_nameindex)}


def test_a_running_node_holds_the_rights_that_it_needs_and_no_others(laboratory, tmp_path):
    with Underlay() as underlay:
        node = NodeProcess(underlay.add_host("alice"), tmp_path / "node", exits=True)
        node.start()
        try:
            wait_until("the node's start", lambda: node.answers, timeout_s=60)
            lines = Path(f"/proc/{node.pid}/status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines)
            limits = Path(f"/proc/{node.pid}/limits").read_text()
        finally:
            node.stop()
    for name in ("CapEff", "CapPrm", "CapBnd"):
        held = {number for number in range(64) if int(status[name], 16) >> number & 1}
        assert 12 in held, "without CAP_NET_ADMIN this test shows nothing"
        assert held <= {10, 12, 13, 21 if 39 not in held else 39}, name
    assert status["NoNewPrivs"] == "1"
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
