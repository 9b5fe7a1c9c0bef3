"""Test modules that run inside the kernel laboratory: ``pytestmark = pytest.mark.kernel``.

The first test of such a module boots the kernel once, for all of its tests that are selected
(lab/kernel.py); another pytest inside runs them, and what it reports is reported here, test by
test, with tracebacks and captured output. Fixtures act inside alone. Without User Mode Linux
the tests are skipped with the reason; on CI they fail. ``time_limit_s`` and ``memory_mib`` are
arguments of the mark.
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
_HERE = Path(__file__).parent

UNPRIVILEGED = ["setpriv", "--bounding-set", "-all"]
"""Before a command: run it without any capability. It keeps its user, so that it may read a
checkout that lies in a directory of root's alone."""


def pytest_configure(config):
    if config.pluginmanager.has_plugin(_PLUGIN):
        return
    config.addinivalue_line(
        "markers",
        f"{_MARK}(time_limit_s, memory_mib): the module's tests run inside the kernel laboratory",
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
    """Outside: runs marked modules in a kernel of their own and reports what they reported."""

    def __init__(self, config):
        self._config = config
        self._reports = {}
        self._explanations = {}
        self._missing = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        module = item.getparent(pytest.Module)
        mark = module and module.get_closest_marker(_MARK)
        if not mark:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_on(item, mark):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_on(self, item, mark):
        if self._missing is None:
            self._missing = missing_kernel_requirements()
        if self._missing:
            end = pytest.fail if os.environ.get("CI") else pytest.skip
            return [_report(item, lambda: end(" ".join(self._missing)))]
        if item.path not in self._explanations:
            self._explanations[item.path] = self._run_module(item, mark)
        explanation = self._explanations[item.path]
        reports = self._reports.get(item.nodeid, [])
        if any(report.when == "teardown" for report in reports):
            return reports
        return [*reports, _report(item, lambda: pytest.fail(explanation, pytrace=False))]

    def _run_module(self, item, mark):
        """Run the module's selected tests; return why a test might not have ended."""
        tests = [each.nodeid for each in item.session.items if each.path == item.path]
        output = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="overlay-kernel-reports-") as name:
            written = Path(name) / "reports"
            run = KernelRun(
                command=[
                    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                    *("-p", "kernel_case", "--basetemp=/run/pytest", *tests),
                ],
                directory=self._config.rootpath,
                environment=selected_environment()
                | {_REPORTS: str(written), "PYTHONPATH": f"{_HERE}:{_HERE.parent.parent}"},
                shared=[Path(name)],
                **mark.kwargs,
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


def _report(item, end):
    call = pytest.CallInfo.from_call(end, when="call")
    return pytest.TestReport.from_item_and_call(item, call)
