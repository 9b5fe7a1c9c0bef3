"""What the kernel can lack, taken away from a real one: each is one sentence with its remedy.

The order matters: a module that is once loaded cannot be taken away, so what must be missing
is missing first: ESP, for which the kernel loads the algorithms before it finds out, then one
of these.
"""

import sys
from pathlib import Path
from random import Random

import pytest
from doctor_case import Doctor, configured, facts
from kernel_case import UNPRIVILEGED

from lab.namespaces import Namespace
from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecConfiguration
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.netlink import XfrmSocket
from overlay.ipsec.xfrm.probe import try_suite

pytestmark = pytest.mark.kernel(time_limit_s=1500, first=True)

READ_ONLY_SETTINGS = [
    "unshare", "--mount", "sh", "-c", 'mount --bind /proc/sys /proc/sys && '
    'mount -o remount,bind,ro /proc/sys && exec "$@"', "sh",
]  # fmt: skip
BLOCKED = Path("/etc/modprobe.d/laboratory.conf")
CHACHA = "chacha20poly1305"
XFRM = {"ipsec": {"backend": "xfrm"}}


@pytest.fixture(scope="module")
def host(laboratory):
    with Namespace("host") as made:
        made.configure([
            "link add eth0 type veth peer name other", "link set other up", "link set eth0 up",
            "address add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.2",
        ])  # fmt: skip
        yield made


@pytest.fixture
def blocked():
    """Keep modules from being loaded until the test's end."""

    def block(*modules):
        BLOCKED.write_text("".join(f"install {module} /bin/false\n" for module in modules))

    yield block
    BLOCKED.unlink()


@pytest.fixture
def sysctl():
    """Change settings of the kernel until the test's end."""
    before = {}

    def change(name, value):
        path = Path("/proc/sys", name)
        before.setdefault(path, path.read_text())
        path.write_text(str(value))

    yield change
    for path, value in before.items():
        path.write_text(value)


def one_sentence(said, *words):
    assert said.endswith("."), said
    assert ". " not in said
    assert "\n" not in said
    for word in words:
        assert word in said


# -- what a module gives, while it is missing


def test_a_kernel_without_esp_is_told_which_modules_to_load(host, blocked, tmp_path):
    blocked("esp4", "esp6", CHACHA)
    examined = Doctor(host, configured(tmp_path / "node", **XFRM))
    assert examined.status == 1
    assert "kernel ESP" in examined.obstacles
    one_sentence(
        examined.said("kernel ESP"),
        "installing a security association", "Protocol not supported", "esp4 and esp6",
        'backend = "userspace"',
    )  # fmt: skip


def test_without_esp_the_backend_refuses_with_the_same_sentence(host, blocked):
    blocked("esp4", "esp6", CHACHA)
    with pytest.raises(BackendError) as refusal:
        host.call(lambda: XfrmBackend(rng=Random(1)))
    one_sentence(str(refusal.value), "Protocol not supported", "esp4 and esp6")


def test_half_an_esp_is_told_by_family(host, blocked, tmp_path):
    blocked("esp6", CHACHA)
    examined = Doctor(host, configured(tmp_path / "node", **XFRM))
    assert "kernel ESP" in examined.obstacles
    verdicts = host.call(lambda: try_one(3))
    assert verdicts[0] is None, "ESP over IPv4 is there"
    assert verdicts[1] is not None, "ESP over IPv6 is not"


def try_one(suite):
    with XfrmSocket() as netlink:
        return try_suite(netlink, Random(1), suite)


def test_a_missing_algorithm_is_named_and_the_rest_works(host, blocked, tmp_path):
    blocked(CHACHA)
    chacha = {"backend": "xfrm", "esp_suite": "chacha20-poly1305"}
    examined = Doctor(host, configured(tmp_path / "node", ipsec=chacha))
    assert examined.outcome("kernel ESP") == "works"
    assert examined.outcome("kernel aes-256-gcm") == "works"
    assert "kernel chacha20-poly1305" in examined.obstacles
    one_sentence(
        examined.said("kernel chacha20-poly1305"),
        "rfc7539esp(chacha20,poly1305)", "lacks the algorithm", "load its module",
    )  # fmt: skip
    usual = Doctor(host, configured(tmp_path / "usual", **XFRM))
    assert "kernel chacha20-poly1305" not in usual.obstacles


# -- a kernel that has everything


def test_every_suite_works_and_the_host_is_left_as_it_was(host, tmp_path):
    configuration = configured(tmp_path / "node", **XFRM)
    before = facts(host)
    examined = Doctor(host, configuration)
    assert (examined.status, examined.obstacles) == (0, [])
    assert facts(host) == before
    for suite in SUITES.values():
        assert examined.outcome(f"kernel {suite.name}") == "works", suite.name
    for family in ("IPv4", "IPv6"):
        assert examined.outcome(f"ESP in UDP over {family}") == "works"


def test_forwarding_that_is_forbidden_is_mended_by_the_command_that_is_told(host, tmp_path):
    configuration = configured(tmp_path / "node", **XFRM)
    examined = Doctor(host, configuration, prefix=READ_ONLY_SETTINGS)
    assert (examined.status, examined.obstacles) == (1, ["IPv6 forwarding"])
    command = examined.said("IPv6 forwarding").partition("host: ")[2]
    host.run(command.split())
    assert Doctor(host, configuration, prefix=READ_ONLY_SETTINGS).status == 0


def test_an_ordinary_user_is_told_of_the_privilege(host, tmp_path):
    configuration = configured(tmp_path / "node", **XFRM)
    tmp_path.chmod(0o711)
    examined = Doctor(host, configuration, prefix=UNPRIVILEGED)
    assert {"CAP_NET_ADMIN", "kernel ESP", "TUN device"} <= set(examined.obstacles)
    one_sentence(examined.said("kernel ESP"), "Operation not permitted", "CAP_NET_ADMIN")


@pytest.mark.parametrize("what", ["state", "policy"])
def test_every_request_of_an_ordinary_user_names_operation_and_privilege(host, what):
    program = f"""
import random, sys
from overlay.errors import BackendError
from overlay.ipsec.xfrm.forms import body_of
from overlay.ipsec.xfrm.messages import XFRM_MSG_GETSA, usersa_dump
from overlay.ipsec.xfrm.netlink import Request, XfrmEvents, XfrmSocket
from overlay.ipsec.xfrm.probe import usable_suites
try:
    with XfrmSocket() as netlink:
        if {what!r} == "state":
            netlink.dump(Request(XFRM_MSG_GETSA, body_of(usersa_dump())))
        else:
            usable_suites(netlink, random.Random(1), experiment=False)
except BackendError as error:
    print(error)
"""
    said = host.run([*UNPRIVILEGED, sys.executable, "-c", program]).stdout.strip()
    operation = "listing" if what == "state" else "installing a security association"
    one_sentence(said, operation, "Operation not permitted", "CAP_NET_ADMIN")


# -- tables and buffers that are full


def test_buffers_too_small_for_a_batch_name_the_setting(host, sysctl):
    sysctl("net/core/wmem_default", 4608)
    with pytest.raises(BackendError) as refusal:
        host.call(install_many)
    one_sentence(str(refusal.value), "IPsec entries", "sysctl -w net.core.wmem_default=")


def install_many():
    from test_kernel_xfrm_backend import link, onion, policy

    many = tuple(onion(0x3000 + index) for index in range(40))
    policies = (policy(onion(), link()),)
    with XfrmBackend(rng=Random(1)) as backend:
        backend.install(IpsecConfiguration((*many, onion(), link()), policies))
