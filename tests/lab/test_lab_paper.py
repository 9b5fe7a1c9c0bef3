"""The quick form of the paper's experiment: everything is produced, and in the right order."""

import csv
import os

import pytest

from lab.kernel import missing_kernel_requirements
from lab.paper.__main__ import main
from lab.paper.campaign import QUICK
from lab.paper.cells import FIGURES
from lab.paper.summary import read_rows

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    missing = missing_kernel_requirements()
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(" ".join(missing))
    directory = tmp_path_factory.mktemp("paper")
    assert main(["--quick", "--output", str(directory)]) == 0
    return directory


def test_every_cell_of_the_plan_has_a_row(results):
    rows = read_rows(results / "paper.csv")
    assert len(rows) == 2 * len(QUICK.ciphers) * len(QUICK.tunnels) * len(QUICK.sizes)
    assert all(row.visits == QUICK.least_rounds for row in rows)
    assert all(0 < row.min_ms <= row.p50_ms <= row.p95_ms for row in rows if row.metric == "rtt")
    with (results / "paper.csv").open() as file:
        assert {"figure", "cipher", "tunnels", "size", "ci95_low_ms"} <= set(next(csv.reader(file)))


def test_every_figure_of_its_ciphers_is_drawn(results):
    shown = [figure for figure in FIGURES if set(figure.ciphers) & set(QUICK.ciphers)]
    assert len(shown) == 4
    for figure in shown:
        assert (results / "figures" / f"{figure.file_name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (results / "figures" / f"{figure.file_name}.svg").read_text()


def test_tunnels_and_bytes_cost_time(results):
    # The fastest packet of a cell is not the host's fault: 2,048 bytes need 1.6 ms on the slow
    # link alone, each way, and four tunnels cannot be faster than none.
    rows = {
        (r.cipher, r.tunnels, r.size): r
        for r in read_rows(results / "paper.csv")
        if r.metric == "rtt"
    }
    for cipher in QUICK.ciphers:
        assert rows[cipher, 0, 2048].min_ms > 3.2
        assert rows[cipher, 4, 2048].min_ms > rows[cipher, 0, 2048].min_ms
        assert rows[cipher, 4, 64].min_ms > rows[cipher, 0, 64].min_ms


def test_an_interrupted_run_is_taken_up_and_its_figures_drawn_again(results, capsys):
    assert main(["--replot", "--output", str(results)]) == 0
    assert "24 cells" in capsys.readouterr().out
