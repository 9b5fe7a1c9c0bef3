"""Report files, functions and classes that are too large without a reason, and needless reasons.

Limits: 500 lines for a file (tests excepted, because each is a list of separate cases), 60 lines
for a function, 12 public methods for a class. A reason is a comment ``# Large: ...`` in the first
line of the function or class, or in the line above. A file has it in its first five lines.

usage: scripts/sizes.py [DIRECTORY ...]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_ROOTS: Final = ("overlay", "sims", "lab", "benchmarks", "scripts", "tests")
_FILE_LINES: Final = 500
_FUNCTION_LINES: Final = 60
_PUBLIC_METHODS: Final = 12
_REASON: Final = "# Large: "
_HEAD_LINES: Final = 5
_REMEDY: Final = f'divide it, or write "{_REASON}..." above it'

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def findings(path: Path) -> Iterator[str]:
    """Yield one sentence for each part that is too large without a reason, or the reverse."""
    lines = path.read_text().splitlines()
    has_reason = any(line.startswith(_REASON) for line in lines[:_HEAD_LINES])
    if len(lines) > _FILE_LINES and not has_reason and path.parts[0] != "tests":
        yield f"{path}: {len(lines)} lines, more than {_FILE_LINES}: {_REMEDY}"
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, _Function | ast.ClassDef):
            continue
        excess = list(_excess(path, node))
        if not _has_reason(node, lines):
            yield from excess
        elif not excess:
            yield f"{path}:{node.lineno}: {node.name} is not too large: remove the reason above it"


def _has_reason(node: _Function | ast.ClassDef, lines: Sequence[str]) -> bool:
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    above = lines[first - 2].lstrip() if first > 1 else ""
    return above.startswith(_REASON) or f"  {_REASON}" in lines[node.lineno - 1]


def _excess(path: Path, node: _Function | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        methods = [each for each in node.body if isinstance(each, _Function)]
        count = len({each.name for each in methods if not each.name.startswith("_")})
        if count > _PUBLIC_METHODS:
            yield (
                f"{path}:{node.lineno}: class {node.name} has {count} public methods, "
                f"more than {_PUBLIC_METHODS}: {_REMEDY}"
            )
        return
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > _FUNCTION_LINES:
        yield (
            f"{path}:{node.lineno}: function {node.name} has {length} lines, "
            f"more than {_FUNCTION_LINES}: {_REMEDY}"
        )


def main(roots: Sequence[str]) -> int:
    """Print all findings; return 1 if there are any."""
    files = sorted(each for root in roots for each in Path(root).rglob("*.py"))
    found = [sentence for path in files for sentence in findings(path)]
    for sentence in found:
        print(sentence)  # noqa: T201 - its output
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or _ROOTS))
