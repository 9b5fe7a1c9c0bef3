import json
import sys

import html5lib
import pytest
from test_results_directory import TABLES, written

from sims.scenario.study import Axis, study_of
from sims.studies.reports.drawing import draw
from sims.studies.reports.text import file_name, permitted
from sims.studies.results.reading import read_results

SCRIPT = "</h1><script>alert('1')</script>"


def parsed(directory):
    """The report as an element; an error if it is not valid HTML."""
    text = (directory / "report.html").read_text()
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    return document.getroot() if hasattr(document, "getroot") else document


def texts(element, path):
    return [" ".join("".join(each.itertext()).split()) for each in element.iterfind(path)]


def test_sections_tables_and_links_of_a_report(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written(tmp_path / "out", study_of(TABLES, [Axis("nodes", (100, 200))]))
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    report = parsed(tmp_path / "out")
    assert texts(report, ".//h1") == ["Small"]
    assert texts(report, ".//p[@class='question']") == [TABLES["question"]]
    links = [each.get("href") for each in report.iterfind(".//nav//a")]
    assert links == [f"#{each.get('id')}" for each in report.iterfind(".//section")]
    described = " ".join(texts(report, ".//section[@id='setup']/p"))
    assert described.startswith("100 nodes run")
    assert "This is the first of 2 points." in described
    changed = texts(report, ".//section[@id='setup']//table/tbody/tr")
    assert any(row.startswith("nodes 100, 200 (sweep)") for row in changed), changed
    verdicts = report.find(".//section[@id='verdict']//table")
    assert texts(verdicts, "./thead/tr/th") == [
        "point", "expected", "got", "95 % CI", "seeds", "verdict",
    ]  # fmt: skip
    assert texts(verdicts, "./tbody/tr/td[1]") == ["nodes=100"] * 2 + ["nodes=200"] * 2
    for table in report.iterfind(".//table"):
        columns = len(table.findall("./thead/tr/th"))
        assert {len(row) for row in table.iterfind("./tbody/tr")} == {columns}


def test_hostile_strings_of_a_study_stay_text(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    study = study_of({**TABLES, "question": SCRIPT}, [Axis("question", (SCRIPT, "\"'<i>&amp;"))])
    written(tmp_path / "out", study)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["failures"] = [{"point": 0, "seed": 1, "sentence": "<b>\0\x1b[1m\ud800\ufffe</b>"}]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config |= {"command": SCRIPT, "versions": {SCRIPT: SCRIPT}, "started": SCRIPT}
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    report = parsed(tmp_path / "out")
    assert not list(report.iter("script"))
    assert texts(report, ".//p[@class='question']") == [SCRIPT]
    assert SCRIPT in texts(report, ".//section[@id='again']//td")
    [missing] = texts(report, ".//section[@id='missing']//li[last()]")
    assert missing.endswith("seed 1: <b>\ufffd\ufffd[1m\ufffd\ufffd</b>")
    assert f"question={SCRIPT}" in texts(report, ".//section[@id='verdict']//td")


@pytest.mark.slow
@pytest.mark.parametrize("swept", [False, True])
def test_hostile_names_in_figures_stay_text_and_inside_of_the_directory(tmp_path, swept):
    pytest.importorskip("matplotlib")
    axes = [Axis("question", ("$x_{$", f'id="a" {SCRIPT}'))] if swept else []
    study = written(tmp_path / "out", study_of({**TABLES, "seeds": 2}, axes))
    metric = '../../outside"><script>$x_{$'
    quoted = metric.replace('"', '""')
    with (tmp_path / "out" / "observations.csv").open("a") as table:
        for point in () if swept else study.points:
            for seed in point.scenario.seeds:
                rows = (f'{point.name},{seed},{60 * n},"{quoted}",$x_{{$,{n}\n' for n in range(20))
                table.writelines(rows)
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    report = parsed(tmp_path / "out")
    assert not list(report.iter("script"))
    ids = [each.get("id") for each in report.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    if not swept:
        assert (tmp_path / "out" / "figures" / f"{file_name(metric)}.svg").exists()


def test_text_that_html_does_not_permit_is_replaced():
    assert permitted("tab\t, line\n, ä, \U0001f600") == "tab\t, line\n, ä, \U0001f600"
    assert permitted("\0\x7f\x85\udfff\ufdd0\uffff\U0010ffff") == "\ufffd" * 7
    assert file_name("lookup_latency_s") == "lookup_latency_s"
    assert file_name("../x") != file_name("../y")


def test_one_expectation_is_in_the_singular(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    single = {**TABLES, "expectations": ["lookup_success mean >= 0.5"]}
    written(tmp_path / "out", study_of(single))
    draw(tmp_path / "out", read_results(tmp_path / "out"))
    banner = texts(parsed(tmp_path / "out"), ".//p[@role='status']")
    assert banner == ["Held. The expectation was met."]
