"""Nothing opens by itself where the kernel has no nftables and carries the circuits."""

import ipaddress

import pytest
from kernel_overlay import BUSY_S, PreparedNode, client

from lab.nodes import wait_until
from lab.underlay import Underlay
from overlay.config import load_configuration
from overlay.control.service import StopReport
from overlay.node.path_file import encode_paths
from overlay.node.release import free_blocked
from overlay.paths.requested_path import PathTerms

pytestmark = pytest.mark.kernel(time_limit_s=900)


def test_what_is_remembered_is_blocked_by_the_start_kept_by_the_stop_and_freed_without_a_node(
    laboratory, tmp_path
):
    """One node suffices: its path cannot be rebuilt, so all that is sent must be dropped."""
    with Underlay() as underlay:
        node = PreparedNode(underlay.add_host("alicek"), tmp_path / "alicek", backend="xfrm")
        bob = underlay.add_server("bob")
        targets = (str(bob.ipv4.ip), str(bob.ipv6.ip))
        destination = ipaddress.ip_network(targets[1])
        terms = PathTerms(destination, 2, "uniform", both_versions=True)
        (node.directory / "paths.json").write_bytes(encode_paths([terms]))
        assert reached(node, targets) == set(targets)
        with node.host.capture(tmp_path / "silent.pcap") as capture:
            node.start()
            wait_until("the start", lambda: node.answers, timeout_s=BUSY_S)
            assert reached(node, targets) == set()
            with client(node) as asked:
                status = asked.status()
                assert (status.backend, status.blocked_versions) == ("xfrm", ("IPv4",))
                assert asked.stop() == StopReport(1, 0, 0)
            wait_until("the end", lambda: not node.running, timeout_s=BUSY_S)
            assert reached(node, targets) == set()
        assert not {str(p.destination) for p in capture.packets()} & set(targets)
        configuration = load_configuration(node.configuration)
        freed = node.host.namespace.call(lambda: free_blocked(configuration))
        assert freed.destinations == (destination,)
        assert reached(node, targets) == set(targets)
        rules = node.host.namespace.run(["sh", "-c", "iptables-legacy -t mangle -S; ip rule"])
        assert "109:" not in rules.stdout
        assert "-A " not in rules.stdout


def reached(node, targets):
    """Return the targets that answer a program of the host, also one bound to the device."""
    asking = [
        (target, node.host.namespace.popen(["ping", "-c", "1", "-W", "1", *bound, target]))
        for target in targets
        for bound in ([], ["-I", node.host.interface])
    ]
    return {target for target, program in asking if program.wait(BUSY_S) == 0}
