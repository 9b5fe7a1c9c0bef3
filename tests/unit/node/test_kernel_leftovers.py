"""What a node of the userspace backend clears of a killed one of the kernel's."""

from overlay.node import host


def test_the_wall_goes_also_where_no_policy_is_left(monkeypatch):
    removed = []

    class Wall:
        def __init__(self, ports, *, forwards):
            assert not tuple(ports)
            assert not forwards

        def remove(self):
            removed.append(self)

    monkeypatch.setattr(host, "clear_leftovers", lambda: 0)
    monkeypatch.setattr(host, "IpsecWall", Wall)
    host.LinuxHost().clear_kernel_ipsec()
    assert len(removed) == 1
