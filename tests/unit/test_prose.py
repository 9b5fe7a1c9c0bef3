"""Docstrings, comments and documents follow the rules of CONTRIBUTING.md that can be counted."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("overlay", "sims", "lab", "benchmarks", "scripts")
_MOST_WORDS = 40
"""CONTRIBUTING.md asks for 25. A sentence with a list of names may be longer."""

_PERSONS = re.compile(r"\b(nobody|somebody|everybody|anybody|whoever)\b", re.IGNORECASE)
_CODE = re.compile(r"``[^`]*``|`[^`]*`|\[[^\]]*\]\([^)]*\)|:\w+:`[^`]*`")
_FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
_PARTS = re.compile(r"\n\s*\n|\n\s*(?:[-*|+]|\d+\.) |\n(?=\s+\w+(?:, \w+)*: )|\n\s*\|")
_ENDS = re.compile(r"(?<=[.!?:;])[*\")]*\s+|(?<=[.!?:][*\")])\s+|(?<=[.!?:]\*\*)\s+")
_WORD = re.compile(r"[\w'./%-]*\w")
_DOCSTRING = re.compile(r'^ *r?"""(.*?)"""', flags=re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(?:^|  )# (.*)$", flags=re.MULTILINE)


def _sentences(text: str) -> Iterator[str]:
    for part in _PARTS.split(_CODE.sub("X", text)):
        # Drawings and tables are no sentences.
        if not re.search(r"[─│┌└┐┘├=]{2}|-->|->|<-|\|.*\|", part):
            yield from _ENDS.split(" ".join(part.split()))


def _prose_of_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring and comment, much faster than the module ``ast``."""
    for found in (*_DOCSTRING.finditer(source), *_COMMENT.finditer(source)):
        # A drawing or an example follows two colons.
        yield source.count("\n", 0, found.start()) + 1, found[1].partition("::\n")[0]


def _prose() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            for line, text in _prose_of_code(file.read_text()):
                yield f"{file.relative_to(_ROOT)}:{line}", text
    for file in [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *(_ROOT / "docs").rglob("*.md")]:
        yield str(file.relative_to(_ROOT)), _FENCE.sub("", file.read_text())


@pytest.fixture(scope="module")
def prose() -> list[tuple[str, str]]:
    return list(_prose())


def test_programs_are_things(prose):
    found = [(place, word[0]) for place, text in prose for word in _PERSONS.finditer(text)]
    assert not found, "a node, a peer or a program is it and that"


def test_sentences_are_short(prose):
    long = [
        f"{place}: {sentence}"
        for place, text in prose
        for sentence in _sentences(text)
        if len(_WORD.findall(sentence)) > _MOST_WORDS
    ]
    assert not long, f"divide these sentences, which have more than {_MOST_WORDS} words"
