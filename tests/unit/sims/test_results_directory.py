import html.parser
import json
import re
import sys

import html5lib
import pytest
from tiny_engine import tiny_run

from overlay.errors import BackendError, ConfigurationError
from sims.cli.answer import answer
from sims.scenario.study import Axis, study_of
from sims.studies.reports import markdown
from sims.studies.reports.drawing import draw
from sims.studies.results.directory import ResultsWriter, free_directory
from sims.studies.results.reading import read_results
from sims.studies.results.record import RunFailure

TABLES = {
    "name": "small",
    "question": 'Is 1 < 2 & "so" on?',
    "duration_s": 3600,
    "warm_up_s": 600,
    "seeds": 3,
    "expectations": ["lookup_success mean >= 0.5", "lookup_latency_s p95 <= 0.01"],
}


@pytest.fixture(autouse=True)
def without_figures(monkeypatch, request):
    """Drawing takes seconds: it is left out, as where matplotlib is missing."""
    if "with_figures" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture
def with_figures():
    pytest.importorskip("matplotlib")


def written(path, study=None, *, runs=None, state="complete"):
    """A results directory of the tiny engine; ``runs`` limits how many runs it holds."""
    study = study or study_of(TABLES)
    writer = ResultsWriter(path, study, {"started": "today", "versions": {"overlay": "1"}})
    jobs = [(n, p, s) for n, p in enumerate(study.points) for s in p.scenario.seeds]
    for number, point, seed in jobs[:runs]:
        writer.add(number, tiny_run(point.scenario, seed))
    if state is not None:
        writer.finish(state)
    return study


def test_what_was_written_is_read_back(tmp_path):
    study = written(tmp_path / "out")
    results = read_results(tmp_path / "out")
    assert results.study == study
    assert results.complete
    assert [run.seed for run in results.runs] == [1, 2, 3]
    assert results.runs[0].digest == tiny_run(study.base, 1).digest
    assert results.runs[0].values["lookup_success", ""].count == 61
    assert not list((tmp_path / "out" / "runs").glob("*.csv"))


def test_the_table_is_tidy(tmp_path):
    written(tmp_path / "out")
    lines = (tmp_path / "out" / "observations.csv").read_text().splitlines()
    assert lines[0] == "scenario,seed,time_s,metric,label,value"
    assert lines[1] == "small,1,60,lookup_success,,1"
    assert len(lines) == 1 + 3 * 70 * 11


def test_the_order_of_completion_changes_no_byte(tmp_path):
    study = study_of(TABLES)
    for name, order in (("one", (1, 2, 3)), ("two", (3, 1, 2))):
        writer = ResultsWriter(tmp_path / name, study, {})
        for seed in order:
            writer.add(0, tiny_run(study.base, seed))
        writer.finish("complete")
        draw(tmp_path / name, read_results(tmp_path / name))
    for file in ("observations.csv", "summary.json", "digests.txt", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_killed_program_leaves_what_can_be_read_and_is_incomplete(tmp_path):
    written(tmp_path / "out", runs=2, state=None)
    results = read_results(tmp_path / "out")
    assert (results.state, results.complete, len(results.runs)) == ("running", False, 2)
    drawn = draw(tmp_path / "out", results)
    assert not drawn.held
    assert "Incomplete" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damage", "note"),
    [
        ("manifest.json", b"{", "manifest.json is missing or damaged"),
        ("manifest.json", None, "manifest.json is missing or damaged"),
        ("manifest.json", b'{"failures": [{"point": 1e400, "seed": 1, "sentence": ""}]}',
         "A failure in manifest.json is damaged"),
        ("runs/000-2.json", b"\xff", "000-2.json is missing or damaged"),
        ("observations.csv", b"small,1,60,lookup_succ", "1 damaged rows"),
        ("observations.csv", b"small,1,x,lookup_success,,1\nother,1,1,a,,1\n", "2 damaged rows"),
        ("observations.csv", b'small,1,"\n' + b"y" * 200_000, "1 damaged rows"),
        ("observations.csv", b"small,1,60,lookup_success,,1e308\n", "1 damaged rows"),
        ("observations.csv", b"small,1,1e308,lookup_success,,1\n", "1 damaged rows"),
        ("observations.csv", b"small,9,60,lookup_success,,1\n", "runs that the study does not"),
        ("observations.csv", None, "observations of small, seed 1, are missing"),
    ],
)  # fmt: skip
def test_a_damaged_directory_is_read_as_far_as_it_goes(tmp_path, file, damage, note):
    written(tmp_path / "out")
    place = tmp_path / "out" / file
    if damage is None:
        place.unlink()
    elif place.suffix == ".csv":
        with place.open("ab") as table:
            table.write(damage)
    else:
        place.write_bytes(damage)
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert note in " ".join(drawn.results.notes)
    assert not drawn.results.complete
    assert not drawn.held
    assert len(drawn.results.runs) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "is damaged"),
        (b"[]", "no object of JSON"),
        (b"{}", 'its list "points" is missing'),
        (b'{"points": [], "axes": []}', "a study without scenarios"),
        (b'{"points": []}', 'its list "axes" is missing'),
        (b'{"points": 1, "axes": []}', 'its list "points" is missing or no list'),
        (b'{"points": [1], "axes": []}', 'an entry of its list "points" is no table'),
        (b'{"points": [{"name": "x"}], "axes": []}', 'of its list "points" has no "scenario"'),
        (b'{"points": [{"name": "x", "scenario": 1}], "axes": []}', "of a point is no table"),
        (b'{"points": [{"name": "x", "scenario": {}}], "axes": [{"setting": "n", "values": []}]}',
         "(there are 1) are not one for each combination"),
        (b'{"format": 99}', "written by a newer version of this program (format 99,"),
    ],
)  # fmt: skip
def test_without_its_configuration_a_directory_is_refused_with_a_sentence(tmp_path, content, words):
    written(tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    config.unlink() if content is None else config.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"config\.json") as caught:
        read_results(tmp_path / "out")
    assert words in str(caught.value)
    assert "Error" not in str(caught.value)


def test_what_a_newer_version_wrote_is_not_drawn_over(tmp_path):
    written(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(ConfigurationError, match=r"manifest\.json was written by a newer version"):
        read_results(tmp_path / "out")


def test_a_count_that_no_run_reaches_is_left_out(tmp_path):
    written(tmp_path / "out")
    run = tmp_path / "out" / "runs" / "000-1.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "counters": {"datagrams": 10**400}}))
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert drawn.points[0].performance()["datagrams_per_wall_s"].n == 2


def test_results_are_never_written_over(tmp_path):
    written(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="is not empty"):
        written(tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        written(tmp_path / "file" / "below")


def test_a_directory_s_number_is_the_first_that_is_free(tmp_path):
    assert free_directory("x", tmp_path) == tmp_path / "x-1"
    (tmp_path / "x-1").mkdir()
    assert free_directory("x", tmp_path) == tmp_path / "x-2"


def test_the_summary_says_everything_in_plain_json(tmp_path):
    written(tmp_path / "out")
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["complete"], summary["held"], summary["planned_runs"]) == (True, False, 3)
    (point,) = summary["points"]
    assert [verdict["held"] for verdict in point["verdicts"]] == [True, False]
    latency = next(m for m in point["metrics"] if m["metric"] == "lookup_latency_s")
    assert latency["n"] == 3
    assert latency["ci95_low"] < latency["mean"] < latency["ci95_high"]
    assert latency["quantiles"]["median"]["n"] == 3
    assert point["performance"]["simulated_per_wall"]["mean"] > 0


def test_a_run_that_never_recovered_is_told_wherever_it_is_drawn(tmp_path, capsys):
    study = study_of({**TABLES, "seeds": 2, "expectations": ["recovery_s max <= 600"]})
    writer = ResultsWriter(tmp_path / "out", study, {})
    for seed, recovered in ((1, 1.0), (2, 0.0)):
        outcome = tiny_run(study.base, seed)
        outcome.observations.add(4200.0, "recovered", recovered)
        outcome.observations.add(4200.0, "recovery_s", 300.0)
        writer.add(0, outcome)
    writer.finish("complete")
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert drawn.results.complete
    assert not drawn.held
    assert markdown.main([str(tmp_path / "out")]) == 0
    told = (tmp_path / "out" / "report.html").read_text(), capsys.readouterr().out
    assert all("1 of 2 runs did not recover before the end" in each for each in told)


class Outside(html.parser.HTMLParser):
    """Collects whatever a page would load, and every id."""

    def __init__(self):
        super().__init__()
        self.loaded, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "object", "embed"):
            self.loaded.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        for name in ("href", "xlink:href", "src"):
            if name in given:
                self.links.append(given[name])


@pytest.mark.slow
@pytest.mark.usefixtures("with_figures")
@pytest.mark.parametrize("swept", [False, True])
def test_the_report_is_valid_complete_in_itself_and_says_what_it_must(tmp_path, swept):
    axes = [Axis("latency.loss", (0.0, 0.1)), Axis("nodes", (100, 200))] if swept else []
    shock = {"arrival": {"kind": "partition", "at_s": 600, "lasts_s": 300}}
    written(tmp_path / "out", study_of({**TABLES, **shock}, axes))
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    text = (tmp_path / "out" / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    outside = Outside()
    outside.feed(text)
    assert outside.loaded == []
    assert len(outside.ids) == len(set(outside.ids))
    assert all(link.startswith("#") for link in outside.links)
    assert {link[1:] for link in outside.links} <= set(outside.ids)
    assert "url(http" not in text
    for words in ("Not held", "partition", "Limits", "overlay sim plot", "Is 1 &lt; 2 &amp;"):
        assert words in text
    assert len(re.findall(r'<svg role="img" aria-label="[^"]{20,}', text)) >= 2
    assert list((tmp_path / "out" / "figures").glob("*.png"))


def test_without_matplotlib_a_sentence_says_so(tmp_path):
    written(tmp_path / "out")
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert "pip install '.[sims]'" in drawn.remarks[0]
    assert "pip install &#39;.[sims]&#39;" in (tmp_path / "out" / "report.html").read_text()


def test_failures_and_early_ends_are_told(tmp_path):
    study = study_of(TABLES)
    writer = ResultsWriter(tmp_path / "out", study, {})
    writer.add(0, tiny_run(study.base, 1, should_stop=lambda: True))
    writer.add_failure(RunFailure(0, 2, "the worker was killed <9>."))
    writer.finish("interrupted")
    results = read_results(tmp_path / "out")
    assert [failure.seed for failure in results.failures] == [2]
    draw(tmp_path / "out", results)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "the worker was killed &lt;9&gt;." in text
    assert "seed 1, ended early" in text


def test_a_place_that_cannot_be_written_gets_one_sentence(tmp_path):
    written(tmp_path / "out")
    results = read_results(tmp_path / "out")
    (tmp_path / "out" / "report.html").mkdir()
    (tmp_path / "out" / "report.html" / "x").touch()
    with pytest.raises(BackendError, match='redraw with "overlay sim plot'):
        draw(tmp_path / "out", results)


def test_names_with_commas_and_quotes_come_back_from_the_table(tmp_path):
    axes = [Axis("churn.model", ("weibull(3h, 0.6)", "kad2007"))]
    study = written(tmp_path / "out", study_of({**TABLES, "seeds": 1}, axes))
    results = read_results(tmp_path / "out")
    assert results.complete
    assert {run.point for run in results.runs} == {0, 1}
    assert study.points[0].name == "churn.model=weibull(3h, 0.6)"


def test_nothing_is_held_where_nothing_was_judged(tmp_path, capsys):
    written(tmp_path / "out", study_of({**TABLES, "expectations": []}))
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert drawn.held is None
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["held"] is None
    assert answer(drawn, as_json=False) == 0
    assert "nothing was judged" in capsys.readouterr().out


def test_what_is_incomplete_says_how(tmp_path, capsys):
    study = study_of({**TABLES, "seeds": 2})
    writer = ResultsWriter(tmp_path / "out", study, {"started": "today", "versions": {}})
    for seed in (1, 2):
        writer.add_failure(RunFailure(0, seed, "it ran out of luck."))
    writer.finish("complete")
    drawn = draw(tmp_path / "out", read_results(tmp_path / "out"))
    assert answer(drawn, as_json=False) == 1
    out = capsys.readouterr().out
    assert "Incomplete: 2 runs failed; 0 of 2 runs went to their end." in out


def test_comparison_of_points_stands_in_summary_and_report(tmp_path):
    written(tmp_path / "out", study_of(TABLES, [Axis("latency.loss", (0.0, 0.1))]))
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {each["point"] for each in summary["differences"]} == {"latency.loss=0.1"}
    assert "equal with every seed" in (tmp_path / "out" / "report.html").read_text()
