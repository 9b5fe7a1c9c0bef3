"""What a node clears of a killed one, and that settings are given back last changed first."""

import contextlib
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from overlay.config.load import parse_configuration
from overlay.errors import BackendError
from overlay.ipsec.interface import BackendCapabilities
from overlay.node.shells import kernel_shell, operating_system
from overlay.system import exit_filter, ipsec_firewall, kernel_settings
from overlay.system.packet_filter import FilterTable

FORWARDING = "net/ipv6/conf/all/forwarding"
LABELS = "net/ipv6/auto_flowlabels"


class Filter:
    """Tables in memory."""

    def __init__(self):
        self.tables = {}

    def replace(self, table):
        self.tables[table.name] = table

    def remove(self, name):
        self.tables.pop(name, None)

    def notes(self, name):
        return self.tables[name].notes if name in self.tables else None

    def fingerprint(self, name):
        return repr(self.tables[name]).encode() if name in self.tables else None


class Ownership:
    """Locks that no process holds, except those in ``taken``."""

    taken: frozenset[str] = frozenset()

    def __init__(self, what, _):
        if what in self.taken:
            raise BackendError(f"another node owns {what}")

    def release(self):
        pass

    def retake(self):
        return False


@dataclass
class Machine:
    """Kernel settings and packet filter of a host, as a killed node left them."""

    root: object
    filter: Filter = field(default_factory=Filter)

    def setting(self, name):
        return (self.root / name).read_text()

    def set(self, name, value):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(value)

    def left(self, name, *notes):
        self.filter.replace(FilterTable(name, 1, (), notes))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path / "proc")
    machine.set(FORWARDING, "0")
    machine.set(LABELS, "1")
    monkeypatch.setattr(kernel_settings, "SETTINGS_ROOT", machine.root)
    monkeypatch.setattr(exit_filter, "Ownership", Ownership)
    monkeypatch.setattr(Ownership, "taken", frozenset())
    monkeypatch.setattr(exit_filter, "find_packet_filter", lambda: machine.filter)
    for module in (exit_filter, ipsec_firewall):
        monkeypatch.setattr(module, "chosen_filter", lambda _: machine.filter)
    monkeypatch.setattr(operating_system, "clear_leftovers", lambda: 0)
    return machine


def killed_exit_of_the_kernel(machine):
    """It made the wall, which turned forwarding on, and then the exit's filter."""
    machine.set(FORWARDING, "1")
    machine.set(LABELS, "0")
    machine.left("ipsec", f"{LABELS}=1", f"{FORWARDING}=0")
    machine.left("exit", f"{FORWARDING}=1")


def killed_exit_of_userspace(machine):
    machine.set(FORWARDING, "1")
    machine.left("exit", f"{FORWARDING}=0")


KILLED = pytest.mark.parametrize("killed", [killed_exit_of_the_kernel, killed_exit_of_userspace])


@pytest.fixture
def start_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kernel_shell, "ControlSocket", lambda _: contextlib.closing(SimpleNamespace(close=list))
    )
    monkeypatch.setattr(kernel_shell, "hand_esp_over", lambda _: None)
    backend = SimpleNamespace(
        capabilities=lambda: BackendCapabilities("xfrm", frozenset({1, 3}), 5),
        close=lambda: None,
        device_name="anonsec0",
        device=SimpleNamespace(lost=lambda: False),
    )

    def start(*, relay):
        text = f"[roles]\nrelay = {str(relay).lower()}"
        configuration = parse_configuration(text, tmp_path / "overlay.toml")
        return kernel_shell.KernelShell(configuration, [], backend, "a test")

    return start


@KILLED
@pytest.mark.parametrize("relay", [True, False])
def test_the_kernel_backend_starts_from_what_was_before_a_killed_exit(
    machine, start_kernel, killed, relay
):
    killed(machine)
    shell = start_kernel(relay=relay)
    assert machine.setting(FORWARDING) == str(int(relay))
    assert list(machine.filter.tables) == ["ipsec"]
    assert (f"{FORWARDING}=0" in machine.filter.notes("ipsec")) is relay
    shell.close()
    assert (machine.setting(FORWARDING), machine.setting(LABELS)) == ("0", "1")
    assert machine.filter.tables == {}


@KILLED
def test_a_node_of_userspace_gives_back_what_a_killed_exit_changed(machine, killed):
    killed(machine)
    operating_system.LinuxOperatingSystem().clear_kernel_ipsec()
    assert (machine.setting(FORWARDING), machine.setting(LABELS)) == ("0", "1")
    assert machine.filter.tables == {}


def test_what_a_running_exit_has_is_not_touched(machine, start_kernel, monkeypatch):
    killed_exit_of_userspace(machine)
    monkeypatch.setattr(Ownership, "taken", frozenset({"exit"}))
    operating_system.LinuxOperatingSystem().clear_kernel_ipsec()
    start_kernel(relay=False).close()
    assert machine.setting(FORWARDING) == "1"
    assert list(machine.filter.tables) == ["exit"]


def test_the_wall_of_a_running_kernel_node_is_not_touched(machine, monkeypatch):
    def in_use():
        raise BackendError("another node owns kernel-ipsec")

    monkeypatch.setattr(operating_system, "clear_leftovers", in_use)
    machine.left("ipsec", f"{LABELS}=1")
    operating_system.LinuxOperatingSystem().clear_kernel_ipsec()
    assert list(machine.filter.tables) == ["ipsec"]


def test_the_wall_goes_also_where_no_policy_is_left(machine):
    machine.left("ipsec", f"{LABELS}=1")
    operating_system.LinuxOperatingSystem().clear_kernel_ipsec()
    assert machine.filter.tables == {}


def accepting(machine):
    root = machine.root / "net/ipv6/conf"
    return {each.name: (each / "accept_ra").read_text() for each in root.glob("[de]*")}


def test_a_relay_of_the_kernel_hears_router_advertisements_on_every_device(machine, start_kernel):
    def appear(device, value):
        machine.set(f"net/ipv6/conf/{device}/accept_ra", value)

    for device, value in (("default", "1"), ("eth0", "1"), ("eth1", "0"), ("eth2", "2")):
        appear(device, value)
    shell = start_kernel(relay=True)
    wall = next(each for each in shell.enforced if isinstance(each, ipsec_firewall.IpsecFirewall))
    assert accepting(machine) == {"default": "2", "eth0": "2", "eth1": "0", "eth2": "2"}
    assert not wall.missing()
    appear("eth3", "2")  # as the default says
    appear("eth4", "1")  # by another program
    assert wall.missing() == ("kernel settings",)
    assert not wall.disturbed()  # it looks at no device, because it is asked twice a second
    assert wall.repair() == ("kernel settings",)
    assert not wall.missing()
    assert accepting(machine)["eth4"] == "2"
    shell.close()
    assert accepting(machine) == {
        "default": "1", "eth0": "1", "eth1": "0", "eth2": "1", "eth3": "1", "eth4": "1"
    }  # fmt: skip


def test_a_source_of_the_kernel_changes_nothing_of_router_advertisements(machine, start_kernel):
    machine.set("net/ipv6/conf/eth0/accept_ra", "1")
    shell = start_kernel(relay=False)
    assert accepting(machine) == {"eth0": "1"}
    shell.close()
