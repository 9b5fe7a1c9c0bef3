"""What a process holds after it has confined itself; each test confines a process of its own."""

import json
import os
import platform
import subprocess
import sys

import pytest

from overlay.system.confinement import needed_capabilities
from overlay.system.privileges import effective_capabilities

CONFINED = """
import ctypes, json, os, resource, subprocess, sys
from pathlib import Path
from overlay.system.confinement import confine_process
kept = confine_process([Path(each) for each in sys.argv[1:]])
status = dict(l.split(":", 1) for l in Path("/proc/thread-self/status").read_text().splitlines())
child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
child = dict(l.split(":", 1) for l in child.splitlines())
caps = ("CapEff", "CapPrm", "CapInh", "CapBnd")
print(json.dumps({
    "kept": sorted(kept),
    "own": {name: int(status[name], 16) for name in caps},
    "child": {name: int(child[name], 16) for name in caps},
    "no_new_privileges": int(status["NoNewPrivs"]),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
}))
"""

REFUSED = """
import ctypes, platform, struct
from overlay.errors import BackendError
from overlay.system.confinement import confine_process

# seccomp(2): the kernel refuses prctl(2) with EPERM from now on.
number = {"x86_64": 157, "aarch64": 167}[platform.machine()]
codes = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *code) for code in codes))
filtering = ctypes.create_string_buffer(struct.pack("@HP", len(codes), ctypes.addressof(program)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, filtering, 0, 0) == 0
try:
    confine_process([])
except BackendError as error:
    print(error)
"""

MOST = {12, 13, 10, 39, 21}
"""CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE, CAP_BPF or else CAP_SYS_ADMIN."""


def confined(*files):
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, *map(str, files)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def bits(mask):
    return {number for number in range(64) if mask >> number & 1}


def test_nothing_but_the_needed_capabilities_is_left_to_the_process(tmp_path):
    found = confined(tmp_path)
    assert set(found["kept"]) == effective_capabilities() & needed_capabilities([])
    for name in ("CapEff", "CapPrm", "CapInh"):
        assert bits(found["own"][name]) == set(found["kept"])
        assert bits(found["own"][name]) <= MOST


@pytest.mark.skipif(8 not in effective_capabilities(), reason="it takes CAP_SETPCAP")
def test_programs_that_it_starts_cannot_have_more(tmp_path):
    found = confined(tmp_path)
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert bits(found["child"][name]) <= MOST, name


def test_it_can_gain_nothing_and_leaves_no_core(tmp_path):
    found = confined(tmp_path)
    assert found["no_new_privileges"] == 1
    assert found["dumpable"] == 0
    assert found["core"] == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_keeps_the_right_to_files_of_another_user_if_the_node_has_some(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4321, 4321)
    assert 1 in confined(tmp_path, theirs)["kept"]
    assert 1 not in confined(tmp_path)["kept"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="numbers of prctl(2)")
def test_a_kernel_that_refuses_is_an_error_of_the_backend():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("forbidding core dumps failed (Operation not permitted)")


FILES = """
import resource, sys
from overlay.errors import ConfigurationError
from overlay.system.confinement import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    allow_open_files()
except ConfigurationError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (40, 2000, "(1024, 2000)"),
        (40, 200, "(200, 200)"),
        (1500, 2000, "(1500, 2000)"),
        (20, 20, "may open 20 files, and a node needs 64; raise the limit with: ulimit -n 1024"),
    ],
)
def test_the_limit_of_open_files_is_raised_or_named(soft, hard, said):
    done = subprocess.run(
        [sys.executable, "-c", FILES, str(soft), str(hard)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert said in done.stdout
