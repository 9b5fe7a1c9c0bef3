"""The kernel laboratory as seen from outside: output, status, what it writes, how it ends."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import kernel
from lab.kernel import KernelRun, missing_kernel_requirements
from lab.namespaces import LabError
from lab.nodes import wait_until

LIMIT_S = 300
HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


@pytest.fixture
def kernel_there():
    missing = " ".join(missing_kernel_requirements())
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.fixture
def own_processes(kernel_there, tmp_path, monkeypatch):
    """Let kernels have their directory below one of this test, and find them by its name."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def find():
        return [
            entry.parent.name
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if str(tmp_path) in _read(entry)
        ]

    return find


def _read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def run(*command, **options):
    stdout, stderr = io.BytesIO(), io.BytesIO()
    status = KernelRun(command=command, **{"time_limit_s": LIMIT_S} | options).run(stdout, stderr)
    return status, stdout.getvalue(), stderr.getvalue()


def test_output_status_directory_and_environment_pass(kernel_there, tmp_path):
    script = 'pwd; echo "$GREETING" >&2; echo "$OVERLAY_IN_KERNEL"; test -t 1; exit $((40 + $?))'
    status, stdout, stderr = run(
        *("sh", "-c", script), directory=tmp_path, environment={"GREETING": "good 'day'"}
    )
    assert status == 41, "standard output is no terminal"
    assert stdout == f"{tmp_path}\n1\n".encode()
    assert stderr == b"good 'day'\n"


def test_every_byte_comes_out_and_what_is_left_running_is_ended(kernel_there, tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "content").write_bytes(content)
    status, stdout, _ = run("sh", "-c", "sleep 1000 & cat content", directory=tmp_path)
    assert status == 0
    assert stdout == content


def test_only_what_is_written_to_a_shared_directory_stays(kernel_there, tmp_path):
    for name in ("shared", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    write = "for d in shared other /tmp /var/lib /run; do echo new >$d/old || exit 1; done; cat */*"
    status, stdout, _ = run("sh", "-c", write, directory=tmp_path, shared=[tmp_path / "shared"])
    assert status == 0
    assert stdout == b"new\nnew\n"
    assert (tmp_path / "shared" / "old").read_text() == "new\n"
    assert (tmp_path / "other" / "old").read_text() == "old"
    assert not any(Path(place, "old").exists() for place in ("/tmp", "/var/lib", "/run"))


def test_a_directory_to_share_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        run("true", shared=[tmp_path / "missing"])


def test_the_time_limit_ends_everything(own_processes):
    with pytest.raises(LabError, match=r"`sleep 1000` did not end within 8 s inside the kernel"):
        run("sleep", "1000", time_limit_s=8)
    wait_until("the kernel's end", lambda: not own_processes(), timeout_s=60)


def test_a_panic_says_what_the_kernel_said(own_processes):
    with pytest.raises(LabError, match=r"ended before its command did(.|\n)*Kernel panic"):
        run("sh", "-c", "echo c >/proc/sysrq-trigger")
    wait_until("the kernel's end", lambda: not own_processes(), timeout_s=60)


def test_killing_the_caller_leaves_no_process(own_processes):
    program = [sys.executable, "-m", "lab.kernel", "sh", "-c", "echo booted; sleep 1000"]
    with subprocess.Popen(program, cwd=REPOSITORY, stdout=subprocess.PIPE) as caller:
        assert caller.stdout.readline() == b"booted\n"
        assert own_processes() != []
        caller.kill()
    wait_until("the kernel's end", lambda: not own_processes(), timeout_s=60)


def test_an_ordinary_user_is_root_inside(kernel_there):
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    if subprocess.run([*become, "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("only the real root can become another user")
    for directory in (*REPOSITORY.parents, REPOSITORY):
        if directory.owner() == "root" and not directory.stat().st_mode & 1:
            pytest.skip(f"an ordinary user may not enter {directory}")
    done = subprocess.run(
        [*become, *("python3", "-m", "lab.kernel", "sh", "-c"),
         "id -u; ip link add left type veth peer name right && ip xfrm state count"],
        cwd=REPOSITORY, capture_output=True, text=True, env={"PATH": os.defpath}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "SAD", "count", "0"]


def test_what_is_missing_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(kernel, "SYSTEM_DIRECTORIES", ("/nowhere",))
    missing = missing_kernel_requirements()
    assert "The program linux.uml is missing: apt install user-mode-linux." in missing
    assert "The program modprobe is missing: apt install kmod." in missing


def run_pytest(directory, module, **environment):
    (directory / "test_inside.py").write_text(module)
    (directory / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "kernel_case", "-p", "no:cacheprovider", "-rs"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": f"{HERE}:{REPOSITORY}", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


MODULE = """
import os, pytest
pytestmark = pytest.mark.kernel(time_limit_s=240)
def test_passes(): assert os.environ["OVERLAY_IN_KERNEL"] == "1"
def test_fails():
    print("a word of its own")
    assert os.uname().release == "nonsense"
@pytest.mark.skip(reason="for a reason")
def test_skips(): pass
def test_crashes():
    with open("/proc/sysrq-trigger", "w") as trigger: trigger.write("c")
"""


def test_marked_modules_run_inside_and_each_test_is_reported(kernel_there, tmp_path):
    report = run_pytest(tmp_path, MODULE)
    assert "2 failed, 1 passed, 1 skipped" in report
    assert "a word of its own" in report
    assert "== 'nonsense'" in report
    assert "for a reason" in report
    assert "This test did not come to its end: the kernel ended before its command did" in report
    assert "Kernel panic" in report


@pytest.mark.parametrize(("ci", "outcome"), [("", "4 skipped"), ("true", "4 failed")])
def test_without_the_kernel_they_are_skipped_and_on_ci_they_fail(tmp_path, ci, outcome):
    hidden = "import lab.kernel\nlab.kernel._PROGRAMS = (('no-program', 'its-package'),)\n"
    report = run_pytest(tmp_path, hidden + MODULE, CI=ci)
    assert f"{outcome} in" in report
    assert "The program no-program is missing: apt install its-package." in report
