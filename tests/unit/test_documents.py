"""Documents link to what exists; decisions have one form, an index, and a link from the code."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DECISIONS = _ROOT / "docs" / "decisions"
_RECORDS = sorted(_DECISIONS.glob("[0-9]*.md"))
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
_CODE_BLOCK = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"\b[Dd]ecisions?[/ ](\d{4})\b")
_SECTIONS = ("Context", "Decision", "Refused alternatives", "Consequences")
_HEADER = re.compile(
    r"# (?P<number>\d{4}): (?P<title>.+)\n\n"
    r"- Status: (?P<status>Accepted\.|Superseded by \[)(?:.*\n)(?:  .*\n)*"
    r"- Date: \d{4}-\d{2}-\d{2}\n\n## Context\n"
)


def _documents() -> list[Path]:
    return [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")]


def _named_in_code() -> set[str]:
    files = [_ROOT / "pyproject.toml", *(_ROOT / "scripts").glob("*.sh")]
    for package in ("overlay", "sims", "lab", "benchmarks"):
        files += (_ROOT / package).rglob("*.py")
    return {number for file in files for number in _NAMED.findall(file.read_text())}


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{document.relative_to(_ROOT)}: {target}"
        for document in _documents()
        for target in _LINK.findall(_CODE_BLOCK.sub("", document.read_text()))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("record", _RECORDS, ids=lambda record: record.stem)
def test_a_decision_has_the_common_form(record):
    text = record.read_text()
    header = _HEADER.match(text)
    assert header, "the header has the form that docs/decisions/README.md shows"
    assert record.name.startswith(f"{header['number']}-")
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert [section for section in sections if section in _SECTIONS] == list(_SECTIONS)


def test_the_index_lists_every_decision_with_its_title():
    index = (_DECISIONS / "README.md").read_text()
    for record in _RECORDS:
        title = record.read_text().partition("\n")[0].removeprefix("# ")
        number, _, sentence = title.partition(": ")
        assert f"- [{number}]({record.name}): {sentence}" in index


def test_the_code_names_every_decision_that_is_in_force():
    in_force = {
        record.name[:4] for record in _RECORDS if "- Status: Accepted." in record.read_text()
    }
    named = _named_in_code()
    assert not in_force - named, "name these decisions in the code that they explain"


def test_the_index_of_documents_lists_every_page():
    listed = set(_LINK.findall((_ROOT / "docs" / "index.md").read_text()))
    pages = {page.relative_to(_ROOT / "docs").as_posix() for page in (_ROOT / "docs").rglob("*.md")}
    records = {f"decisions/{record.name}" for record in _RECORDS}
    assert not pages - records - listed - {"index.md"}


def test_the_code_names_no_decision_that_does_not_exist():
    assert not _named_in_code() - {record.name[:4] for record in _RECORDS}
