import itertools
import json

import pytest

from lab.paper.__main__ import main, publish
from lab.paper.campaign import CONDITIONS, FULL, OBSERVATIONS, QUICK, CampaignSettings
from lab.paper.cells import CIPHERS, FIGURES, SIZES, TUNNELS, Cell, MeasuredQuantity, cells
from lab.paper.observations import ObservationFile, Visit, read_visits
from lab.paper.page import BEGIN, END, refresh, render
from lab.paper.statements import judge, noise_floor
from lab.paper.summary import Row, read_rows, summarise, write_rows

QUARTERS = (0.9, 1.0, 1.1, 1.0)


def world(rtt_ms, jitter_ms):
    """All rows, made of two functions of cipher, tunnels and size."""
    functions = {"rtt": rtt_ms, "jitter": jitter_ms}
    return [
        row(cell, functions[cell.metric](cell.cipher, cell.tunnels, cell.size)) for cell in cells()
    ]


def row(cell, mean):
    return Row(
        cell.figure, cell.metric, cell.cipher, cell.tunnels, cell.size,
        mean, mean - 0.01, mean + 0.01, 0.01, 8, 160, 0, 0, mean, mean, mean, mean,
    )  # fmt: skip


def as_in_the_paper(cipher, tunnels, size):
    factor = 0.115 if cipher.startswith("3des") else 0.1
    return 2 + size / 1000 + factor * tunnels * (2 + size / 1000)


def steady_in_the_middle(_cipher, tunnels, size):
    return 0.1 + tunnels * (0.01 if size in (128, 256, 512) else 0.05)


def verdicts(rows):
    return [each.agrees for each in judge(rows)]


def test_every_cell_belongs_to_one_figure():
    shown = [(figure.metric.value, cipher) for figure in FIGURES for cipher in figure.ciphers]
    assert len(shown) == len(set(shown)) == len(CIPHERS) * 2
    assert len(cells()) == len(CIPHERS) * len(TUNNELS) * len(SIZES) * 2
    assert [figure.number for figure in FIGURES] == list(range(7, 19))
    assert Cell("aes-256-cbc", 1, 64, "jitter").figure == 14


def test_figures_have_file_names_of_their_own():
    assert len({figure.file_name for figure in FIGURES}) == 12
    assert FIGURES[8].file_name == "figure-15-rtt-aes-gcm"


def test_results_like_the_papers_agree_with_it():
    assert verdicts(world(as_in_the_paper, steady_in_the_middle)) == [True] * 5


@pytest.mark.parametrize(
    ("statement", "rtt_ms", "jitter_ms"),
    [
        (0, lambda *_: 5.0, steady_in_the_middle),
        (1, lambda c, t, s: 2.0 + t, steady_in_the_middle),
        (2, lambda *_: 5.0, steady_in_the_middle),
        (3, lambda c, t, s: 5 + 0.4 * (c == "aes-256-cbc"), steady_in_the_middle),
        (4, as_in_the_paper, lambda c, t, s: 0.1 * t),
    ],
)
def test_each_statement_can_fail(statement, rtt_ms, jitter_ms):
    assert verdicts(world(rtt_ms, jitter_ms))[statement] is False


def test_missing_cells_are_no_verdict():
    rows = [each for each in world(as_in_the_paper, steady_in_the_middle) if each.size > 2000]
    assert verdicts(rows) == [None] * 5


def test_noise_is_the_spread_of_what_knows_no_cipher():
    rows = world(lambda c, t, s: 1.0 + 0.2 * (c == "aes-128-gcm"), steady_in_the_middle)
    assert noise_floor(rows, MeasuredQuantity.RTT) == pytest.approx(dict.fromkeys(SIZES, 0.2))


def visits(count=2):
    return [
        Visit(cell, number, 20, tuple(cell.tunnels + 1 + quarter for quarter in QUARTERS * 5))
        for number, cell in itertools.product(range(count), cells(sizes=(64, 1024)))
    ]


def recorded(directory, found):
    file = ObservationFile(directory / OBSERVATIONS)
    for visit in found:
        file.append(visit)
    (directory / CONDITIONS).write_text(json.dumps({"kernel": "6.1 x86_64", "host": "a processor"}))


def test_an_interrupted_run_keeps_its_whole_lines(tmp_path):
    path = tmp_path / OBSERVATIONS
    recorded(tmp_path, visits()[:3])
    path.write_text(path.read_text()[:-20])
    assert read_visits(path) == visits()[:2]
    ObservationFile(path).append(visits()[2])
    assert read_visits(path) == visits()[:3]


def test_cells_visited_once_are_no_result():
    assert summarise(visits(1)) == []


def test_rows_survive_the_csv(tmp_path):
    rows = summarise(visits())
    write_rows(rows, tmp_path / "rows.csv")
    assert read_rows(tmp_path / "rows.csv") == rows
    first = next(each for each in rows if each.metric == "rtt" and each.tunnels == 2)
    assert (first.mean_ms, first.min_ms, first.n, first.lost) == (4.0, 3.9, 40, 0)


def test_lost_packets_are_counted():
    lossy = [Visit(each.cell, each.round, 22, each.values_ms) for each in visits()]
    assert summarise(lossy)[0].lost == 4


@pytest.mark.slow
def test_everything_is_published_again_without_measuring(tmp_path, capsys):
    shown = ("aes-256-cbc", "aes-128-gcm", "aes-256-gcm")
    recorded(tmp_path, [each for each in visits() if each.cell.cipher in shown])
    assert main(["--replot", "--output", str(tmp_path)]) == 0
    drawn = sorted(each.name for each in (tmp_path / "figures").iterdir())
    assert [name[:9] for name in drawn[::2]] == ["figure-10", "figure-14", "figure-15", "figure-17"]
    assert len(drawn) == 8
    assert "not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_results_give_the_same_svg(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recorded(tmp_path / name, [v for v in visits() if v.cell.cipher == "3des-cbc"])
        publish(tmp_path / name, tmp_path / name, None)
    one, two = (sorted((tmp_path / name / "figures").glob("*.svg")) for name in ("one", "two"))
    assert [each.read_bytes() for each in one] == [each.read_bytes() for each in two]


def test_nothing_measured_is_said_in_one_sentence(tmp_path, capsys):
    recorded(tmp_path, visits(1))
    assert main(["--replot", "--output", str(tmp_path)]) == 1
    assert "no cell was visited twice" in capsys.readouterr().err


def test_the_page_keeps_its_prose(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    recorded(tmp_path, visits())
    refresh(page, render(summarise(visits()), tmp_path / CONDITIONS))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 3DES-CBC, HMAC-SHA-1 | 4 |" in text


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("prose\n")
    with pytest.raises(ValueError, match="lacks the line"):
        refresh(page, "generated")
    assert page.read_text() == "prose\n"


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_plans_survive_the_command_line(plan):
    assert CampaignSettings.decode(plan.encode()) == plan
