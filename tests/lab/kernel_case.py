"""Test modules that run inside the kernel laboratory: ``pytestmark = pytest.mark.kernel``.

The first such test boots the kernel once, for all of the selected tests of all these modules
(lab/kernel.py), because boot and imports take 15 s there. Another pytest inside runs them, and
what it reports is reported here, test by test, with tracebacks and captured output. Fixtures act
inside alone. Without User Mode Linux the tests are skipped with the reason; on CI they fail.

Arguments of the mark: ``time_limit_s`` (limits of several modules add up), ``memory_mib``, and
``first`` for the module that needs a kernel which has not loaded its modules yet.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from lab.kernel import KernelRun, in_kernel, missing_kernel_requirements, selected_environment
from lab.namespaces import LabError

_MARK = "kernel"
_PLUGIN = "kernel-laboratory"
_REPORTS = "OVERLAY_KERNEL_REPORTS"
_SHOWN_CHARACTERS = 4_000
_TIME_LIMIT_S = 900
_MEMORY_MIB = 1024
_HERE = Path(__file__).parent

UNPRIVILEGED = ["setpriv", "--bounding-set", "-all"]
"""Before a command: run it without any capability. It keeps its user, so that it may read a
checkout that lies in a directory of root's alone."""


def pytest_configure(config):
    if config.pluginmanager.has_plugin(_PLUGIN):
        return
    config.addinivalue_line(
        "markers",
        f"{_MARK}(time_limit_s, memory_mib, first): the module runs in the kernel laboratory",
    )
    if not in_kernel():
        config.pluginmanager.register(KernelModules(config), _PLUGIN)
    elif _REPORTS in os.environ:
        config.pluginmanager.register(ReportWriter(config, Path(os.environ[_REPORTS])), _PLUGIN)


class ReportWriter:
    """Inside the kernel: writes each report down, one JSON object a line."""

    def __init__(self, config, path):
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report):
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as file:
            file.write(json.dumps(data, default=str) + "\n")


class KernelModules:
    """Outside: runs the marked modules in a kernel and reports what they reported."""

    def __init__(self, config):
        self._config = config
        self._reports = {}
        self._explanations = {}
        self._missing = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        if not _mark_of(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_on(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_on(self, item):
        if self._missing is None:
            self._missing = missing_kernel_requirements()
        if self._missing:
            end = pytest.fail if os.environ.get("CI") else pytest.skip
            return [_report(item, lambda: end(" ".join(self._missing)))]
        if item.path not in self._explanations:
            self._run_modules([each for each in item.session.items if _mark_of(each)])
        explanation = self._explanations[item.path]
        reports = self._reports.get(item.nodeid, [])
        if any(report.when == "teardown" for report in reports):
            return reports
        return [*reports, _report(item, lambda: pytest.fail(explanation, pytrace=False))]

    def _run_modules(self, items):
        """Run all of them in one kernel; if it dies, the modules not begun get another one."""
        items.sort(key=lambda each: not _mark_of(each).kwargs.get("first", False))
        while items:
            explanation = self._run(items)
            begun = {each.path for each in items if each.nodeid in self._reports}
            begun.add(items[0].path)
            self._explanations |= dict.fromkeys(begun, explanation)
            items = [each for each in items if each.path not in begun]

    def _run(self, items):
        """Run tests in one kernel; return why one of them might not have ended."""
        marks = {each.path: _mark_of(each).kwargs for each in items}.values()
        output = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="overlay-kernel-reports-") as name:
            written = Path(name) / "reports"
            run = KernelRun(
                command=[
                    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                    *("-p", "kernel_case", "--basetemp=/run/pytest"),
                    *(each.nodeid for each in items),
                ],
                directory=self._config.rootpath,
                environment=selected_environment()
                | {_REPORTS: str(written), "PYTHONPATH": f"{_HERE}:{_HERE.parent.parent}"},
                shared=[Path(name)],
                time_limit_s=sum(each.get("time_limit_s", _TIME_LIMIT_S) for each in marks),
                memory_mib=max(each.get("memory_mib", _MEMORY_MIB) for each in marks),
            )
            try:
                ending = f"pytest inside the kernel ended with status {run.run(output, output)}."
            except LabError as error:
                ending = str(error)
            self._read(written)
        said = output.getvalue().decode(errors="replace")[-_SHOWN_CHARACTERS:]
        return f"This test did not come to its end: {ending}\nIts output ended:\n{said}"

    def _read(self, written):
        for line in written.read_text().splitlines() if written.exists() else ():
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=json.loads(line)
            )
            if isinstance(report.longrepr, list):  # JSON knows no tuples; a skip's place is one
                report.longrepr = tuple(report.longrepr)
            self._reports.setdefault(report.nodeid, []).append(report)


def _mark_of(item):
    module = item.getparent(pytest.Module)
    return module and module.get_closest_marker(_MARK)


def _report(item, end):
    call = pytest.CallInfo.from_call(end, when="call")
    return pytest.TestReport.from_item_and_call(item, call)
