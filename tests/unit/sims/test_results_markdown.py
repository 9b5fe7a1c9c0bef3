"""Several results directories on one page of Markdown."""

import pytest
from tiny_engine import tiny_run

from sims.scenario.study import Axis, study_of
from sims.studies.reports.markdown import main
from sims.studies.results.directory import ResultsWriter

NOTHING = "\N{EN DASH}"


def written(path, *, state="complete", axes=(), **tables):
    """A results directory of the tiny engine."""
    study = study_of(
        {
            "name": path.name,
            "question": "Does it hold?",
            "duration_s": 3600,
            "warm_up_s": 600,
            "seeds": 3,
            **tables,
        },
        axes,
    )
    writer = ResultsWriter(path, study, {})
    for number, point in enumerate(study.points):
        for seed in point.scenario.seeds:
            writer.add(number, tiny_run(point.scenario, seed))
    writer.finish(state)
    return str(path)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_measures_stand_side_by_side_and_promises_below_each_question(tmp_path, capsys):
    kept = written(tmp_path / "kept", expectations=["lookup_success mean >= 0.9"])
    broken = written(
        tmp_path / "broken",
        latency={"loss": 0.5},
        expectations=["lookup_success mean >= 0.9", "path_success mean >= 0.5"],
    )
    assert main([kept, broken]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [cells(line) for line in lines if line.startswith("|")]
    assert {len(row) for row in tables[:4]} == {8}
    assert tables[2][:3] == ["kept", "1,000", "1 [0.979 … 1]"]
    assert tables[3][0] == "broken"
    share = float(tables[3][2].split()[0])
    assert 0.35 < share < 0.65
    assert tables[3][4] == NOTHING  # the tiny engine knows no hops
    assert ["lookup_success mean >= 0.9", "1 [0.979 … 1]", "holds"] in tables
    assert any(row[0] == "lookup_success mean >= 0.9" and "not hold" in row[2] for row in tables)
    assert any(row[0].startswith("path_success") and row[1] == NOTHING for row in tables)
    question = lines.index("## broken") + 2
    assert lines[question].startswith("Does it hold? 1,000 nodes (`kad2007`), 1 h after 10 min")


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"state": "interrupted"}, "is not complete; run it again."),
        ({"axes": [Axis("nodes", (100, 200))]}, "is a sweep; its report.html compares"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_sentence(tmp_path, capsys, made, sentence):
    assert main([written(tmp_path / "one", **made)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"markdown: {tmp_path / 'one'} {sentence}")


def test_no_directory_is_refused_with_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 1
    assert "holds no results" in capsys.readouterr().err
