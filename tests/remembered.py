"""What objects keep: every container below some roots, and what a page says about them.

The walk reads the attributes of every object, private ones too, because the list of tables must be
complete. It names none of them.
"""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "threat-model.md"
_CONTAINERS = (dict, list, set, deque)


def section(title):
    """Return the text of one section of the threat model."""
    found = re.search(rf"(?s)## {title}\n(.*?)\n## ", PAGE.read_text(encoding="utf-8"))
    assert found
    return found.group(1)


def listed_tables(text):
    return set(re.findall(r"`(\w+\.\w+)`", text))


def claims(text):
    """Return the bounds that a section names: where the code has them, and their value."""
    return re.findall(r"`([\w.]+(?::\w+)?) = (\d+)`", text)


def value_in_the_code(where, **settings):
    """Return ``Settings.name`` of one of the settings given, or ``module:name``."""
    if ":" in where:
        module, name = where.split(":")
        assert not name.startswith("_"), f"{where} is private, but a page states its value"
        return getattr(import_module(module), name)
    owner, name = where.split(".")
    return getattr(settings[owner], name)


def attributes(value):
    names = set(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def children(value):
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, set, deque, tuple)):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args]
    return [*attributes(value).values(), getattr(value, "__self__", None)]


def tables_below(packages, *roots):
    """Find every container that an object of these packages keeps, as Class.attribute."""
    seen, found, waiting = set(), {}, list(roots)
    keep = []
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type)):
            continue
        seen.add(id(value))
        keep.append(value)  # so that no id is used again
        ours = type(value).__module__.startswith(packages)
        if ours:
            for name, attribute in attributes(value).items():
                if isinstance(attribute, _CONTAINERS):
                    found[f"{type(value).__name__}.{name}"] = attribute
        if ours or isinstance(value, (*_CONTAINERS, tuple, partial)) or callable(value):
            waiting += children(value)
    return found
