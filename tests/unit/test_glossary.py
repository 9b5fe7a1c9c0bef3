"""The names of the tree follow docs/glossary.md; what does not is listed, and the list shrinks."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeGuard

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("overlay", "sims", "lab")
_GLOSSARY = _ROOT / "docs" / "glossary.md"
_RENAMES = Path(__file__).with_name("glossary_renames.txt")
_FORBIDDEN = re.compile(r"`([^`]+)`(?: \(in ([^)]+)\))?")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True)
class Name:
    """A name in the code. ``key`` identifies it in the list of renames."""

    kind: str
    name: str
    place: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def full_key(self) -> str:
        """The key with the module, which classes need whose name occurs twice."""
        return f"{self.kind} {self.place.replace('/', '.')}.{self.name}"


@dataclass(frozen=True)
class Rule:
    words: tuple[str, ...]
    packages: tuple[str, ...]

    def covers(self, place: str) -> bool:
        return not self.packages or any(
            place == package or place.startswith(f"{package}/") for package in self.packages
        )


def _words(name: str) -> tuple[str, ...]:
    return tuple(_singular(word.lower()) for word in _WORD.findall(name))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _glossary() -> tuple[list[tuple[str, ...]], list[Rule]]:
    terms, rules = [], []
    for line in _GLOSSARY.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in ("Word", "---"):
            continue
        terms.append(_words(cells[0]))
        for word, packages in _FORBIDDEN.findall(cells[3]):
            places = tuple(part.strip() for part in packages.split(",") if part.strip())
            rules.append(Rule(_words(word), places))
    return terms, [rule for rule in rules if rule.words not in terms or rule.packages]


@cache
def _names() -> tuple[Name, ...]:
    return tuple(_read_names())


def _read_names() -> Iterator[Name]:
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            place = file.relative_to(_ROOT).as_posix().removesuffix(".py")
            if file.stem == "__init__":
                place = place.removesuffix("/__init__")
            yield Name("module", place.replace("/", "."), place)
            yield from _names_in(ast.parse(file.read_text()), place)


def _names_in(tree: ast.Module, place: str) -> Iterator[Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield Name("class", node.name, place)
            if node.name.endswith("Settings") or place == "sims/scenario/sections":
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield Name("setting", f"{node.name}.{field.target.id}", place)
        elif _declares_option(node):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield Name("option", argument.value, place)


def _declares_option(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("add_argument", "add_parser")
    )


def _positions(words: tuple[str, ...], part: tuple[str, ...]) -> Iterator[range]:
    for start in range(len(words) - len(part) + 1):
        if words[start : start + len(part)] == part:
            yield range(start, start + len(part))


def _breaks(name: Name, terms: list[tuple[str, ...]], rules: list[Rule]) -> bool:
    """Tell whether a name has a forbidden word outside of every term of the glossary."""
    # The directories of a module are modules themselves, and a class of settings is a class.
    words = _words(name.name.rpartition(".")[2])
    allowed = [span for term in terms if len(term) > 1 for span in _positions(words, term)]
    return any(
        not any(set(found) < set(span) for span in allowed)
        for rule in rules
        if rule.covers(name.place)
        for found in _positions(words, rule.words)
    )


def _renames() -> dict[str, str]:
    lines = (line.strip() for line in _RENAMES.read_text().splitlines())
    pairs = [line.split(" -> ") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "write each rename as: kind old -> new"
    return dict(pairs)


def _offenders() -> list[Name]:
    terms, rules = _glossary()
    return [name for name in _names() if _breaks(name, terms, rules)]


def _public_classes() -> dict[str, list[Name]]:
    """Return the public classes by their name; kernel structures keep the kernel's names."""
    classes = defaultdict(list)
    for name in _names():
        if name.kind == "class" and name.name[0].isupper():
            classes[name.name].append(name)
    return classes


def test_every_row_of_the_glossary_has_a_meaning_of_its_own():
    terms, rules = _glossary()
    assert len(terms) >= 40
    assert [term for term, count in Counter(terms).items() if count > 1] == []
    assert rules


def test_names_use_the_words_of_the_glossary():
    listed = _renames().keys()
    new = {name.key for name in _offenders() if not {name.key, name.full_key} & listed}
    assert not new, f"docs/glossary.md has another word for what these names say: {sorted(new)}"


def test_a_class_name_stands_for_one_thing():
    renamed = _renames().keys()
    new = {
        name: [each.place for each in classes]
        for name, classes in _public_classes().items()
        if sum(each.full_key not in renamed for each in classes) > 1
    }
    assert not new, f"each of these class names stands for several things: {new}"


def test_the_list_of_renames_names_only_what_still_exists():
    existing = set()
    for name in _names():
        existing |= {name.key, name.full_key}
    gone = _renames().keys() - existing
    assert not gone, f"remove these lines from {_RENAMES.name}: {sorted(gone)}"


def test_the_renames_follow_the_glossary_themselves():
    terms, rules = _glossary()
    wrong = []
    for old, new in _renames().items():
        kind, name = old.split(" ", 1)
        place = name.rpartition(".")[0].replace(".", "/") if kind == "module" else "tests"
        if _breaks(Name(kind, new, place), terms, rules):
            wrong.append(f"{old} -> {new}")
    assert not wrong


def test_the_check_finds_a_forbidden_word_and_accepts_it_inside_a_term():
    terms, rules = _glossary()
    assert _breaks(Name("class", "SourceGuard", "overlay/node/x"), terms, rules)
    assert _breaks(Name("setting", "ApmSettings.rekey_linger_s", "overlay/apm/x"), terms, rules)
    assert _breaks(Name("class", "Walks", "overlay/dht/x"), terms, rules)
    assert not _breaks(Name("class", "EntryGuards", "overlay/node/x"), terms, rules)
    assert not _breaks(Name("class", "Verdict", "overlay/system/x"), terms, rules)
    assert _breaks(Name("class", "Verdict", "sims/studies/results/x"), terms, rules)
