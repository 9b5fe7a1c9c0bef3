"""Tests, simulations, laboratories and benchmarks use the product through its public names only."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USERS = ("sims", "lab", "benchmarks")

OWN = ("self", "cls", "super")
"""Objects whose private names belong to the code that uses them."""

PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Names of named tuples and of os, which their documentation describes."""

ELSEWHERE = {"_ArgumentGroup", "_SubParsersAction", "_create_protocol"}
"""Names of argparse and kademlia, which are not the product."""

BY_NAME = {"attrgetter", "delattr", "getattr", "hasattr", "object", "patch", "setattr"}
"""Functions that get the name of an attribute as text."""

PRIVATE = re.compile(r"(^|\.)_(?!_)\w+$")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path):
    return str(path.relative_to(ROOT))


def is_private(name):
    return PRIVATE.search(name) is not None and name.rpartition(".")[2] not in PUBLIC


@lru_cache(maxsize=1)
def nodes(source):
    return tuple(ast.walk(ast.parse(source)))


def called(node):
    """Return the last part of the name of what an expression calls."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def defined_in(source):
    """Return the private names that a module defines itself: methods, fields, attributes."""
    names = set()
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def foreign_private_names(source, own_names=frozenset()):
    """Return the private attributes that code uses on other objects than its own."""
    found = []
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            is_own = isinstance(owner, ast.Name) and owner.id in OWN
            if not (is_own or node.attr in own_names):
                found.append((node.lineno, node.attr))
    return found


def inherited_private_names(source):
    """Return the private names that classes use of base classes in other modules."""
    own_names = defined_in(source)
    return [
        (node.lineno, node.attr)
        for node in nodes(source)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own_names
    ]


def private_imports(source):
    """Return the private names and modules that code imports."""
    found = []
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom):
            found += [part for part in (node.module or "").split(".") if is_private(part)]
        if isinstance(node, ast.ImportFrom | ast.Import):
            found += [a.name for a in node.names if any(map(is_private, a.name.split(".")))]
    return found


def private_texts(source):
    """Return the private names that code writes as text: to patch, read or test an attribute."""
    texts = []
    for node in nodes(source):
        if isinstance(node, ast.Call) and called(node) in BY_NAME:
            texts += node.args
        elif isinstance(node, ast.Subscript) and (
            (isinstance(node.value, ast.Call) and called(node.value) == "vars")
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "__dict__")
        ):
            texts.append(node.slice)
    return [
        (text.lineno, text.value)
        for text in texts
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and is_private(text.value)
    ]


@pytest.mark.parametrize("path", sources(*USERS), ids=name_of)
def test_no_private_name_of_the_product_is_used(path):
    source = path.read_text(encoding="utf-8")
    used = foreign_private_names(source, defined_in(source)) + inherited_private_names(source)
    assert {name for _, name in used} <= ELSEWHERE
    assert private_imports(source) == []


def test_tests_use_public_names_only():
    """Of other test modules and of other packages too, and without exceptions."""
    found = {}
    for path in sources("tests"):
        source = path.read_text(encoding="utf-8")
        uses = foreign_private_names(source) + inherited_private_names(source)
        uses += private_imports(source) + private_texts(source)
        if uses:
            found[name_of(path)] = uses
    assert found == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("dht._table", 1),
        ("self.dht._table", 1),
        ("self._dht.parts", 0),
        ("super()._send(now)", 0),
        ("lookup._asks[one].path", 1),
        ("contact._replace(port=1)", 0),
        ("vars(dht).__class__", 0),
    ],
)
def test_the_check_of_attributes_sees_what_it_should(source, count):
    assert len(foreign_private_names(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("class Ours(Lookup):\n def next(self): return self._paths", 1),
        ("class Ours(Lookup):\n def next(self): return super()._next()", 1),
        ("class Ours:\n def __init__(self): self._paths = self._other = []", 0),
        ("class Ours:\n def next(self): return self._next()\n def _next(self): pass", 0),
    ],
)
def test_the_check_of_base_classes_sees_what_it_should(source, count):
    assert len(inherited_private_names(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from overlay.dht.calls import _MAX_COOKIES", 1),
        ("from overlay._x import y", 1),
        ("import overlay._x.y", 1),
        ("from __future__ import annotations", 0),
        ("from overlay import __version__", 0),
    ],
)
def test_the_check_of_imports_sees_what_it_should(source, count):
    assert len(private_imports(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('monkeypatch.setattr(programs, "_DIRECTORIES", ())', 1),
        ('monkeypatch.setattr("overlay.system.programs._DIRECTORIES", ())', 1),
        ('mock.patch.object(dht, "_table")', 1),
        ('getattr(dht, "_table", None)', 1),
        ('vars(dht)["_table"]', 1),
        ('dht.__dict__["_table"]', 1),
        ('monkeypatch.setattr(os, "_exit", print)', 0),
        ('assert "Lookup._asks" in found', 0),
    ],
)
def test_the_check_of_texts_sees_what_it_should(source, count):
    assert len(private_texts(source)) == count


def test_the_product_has_no_hook_for_a_simulated_responder():
    """An adversary changes envelopes, which are an argument (docs/decisions/0060)."""
    for path in sorted((ROOT / "overlay" / "dht").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert "make_responder" not in source
        assert "sims" not in {
            (node.module or "").split(".")[0]
            for node in nodes(source)
            if isinstance(node, ast.ImportFrom)
        }
