"""The kill switch on the kernel backend hears of inner addresses before the host holds them."""

import ipaddress

from overlay.addresses import InnerAddress
from overlay.node.shells.kernel_source import KernelSource

BOB = ipaddress.ip_network("203.0.113.10/32")
INNER = ("100.64.0.2", "10.9.0.2", "fd99::2")
OURS = ("fd6d:6978::1", "fd63:6972::1")


class KillSwitchService:
    """Notes what it is asked for."""

    def __init__(self):
        self.expected = []

    def protect(self, *prefixes):
        pass

    def expect(self, address, device=None):
        assert device is None
        self.expected.append(str(ipaddress.ip_address(address)))


def test_only_inner_addresses_are_expected_and_only_where_something_is_protected():
    kill_switch = KillSwitchService()
    source = KernelSource(lambda: kill_switch, device="anonsec0", path_mtu=1038)
    for address in INNER:
        source.expect(InnerAddress(ipaddress.ip_address(address).packed))
    assert kill_switch.expected == []
    source.protect(BOB)
    for address in (*OURS, *INNER):
        source.expect(ipaddress.ip_address(address).packed)
    assert kill_switch.expected == list(INNER)
