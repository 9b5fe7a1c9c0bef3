"""Values that the templates of a report show, and the rendering of the page.

The templates are in ``templates/``. Jinja escapes every value, because names, questions and
messages come from files that another user may have written. The only markup that is passed
unescaped is the SVG of figures, which matplotlib writes. Reasons: docs/decisions/0063.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jinja2 import Environment

from sims.studies.reports.text import permitted

__all__ = [
    "ReportCell",
    "ReportColumn",
    "ReportSection",
    "ReportTable",
    "numeric",
    "render",
    "table",
]

_TEMPLATES: Final = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class ReportCell:
    """One cell of a table.

    Attributes:
        text: what it shows.
        kind: a CSS class: ``number``, ``good``, ``bad``, ``doubt``, or empty.
        code: show the text as code.
        title: a longer explanation for readers that point at the cell.
    """

    text: str
    kind: str = ""
    code: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """The heading of a column; ``kind`` as in :class:`ReportCell`."""

    title: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table with a caption, and a note below it if there is one."""

    caption: str
    columns: Sequence[ReportColumn]
    rows: Sequence[Sequence[ReportCell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A part of the report with a heading.

    Attributes:
        anchor: the id of the section, for links.
        title: the heading.
        template: the file of ``templates/`` that shows the content.
        content: the value that the template knows as ``content``.
    """

    anchor: str
    title: str
    template: str
    content: object


def numeric(text: str) -> ReportCell:
    """Return a cell for a number, which is aligned at the right."""
    return ReportCell(text, "number")


def table(
    caption: str, head: Iterable[str], rows: Sequence[Sequence[ReportCell]], note: str = ""
) -> ReportTable:
    """Return a table. A heading that ends in # is for numbers."""
    columns = [
        ReportColumn(each.removesuffix("#"), "number" if each[-1:] == "#" else "") for each in head
    ]
    return ReportTable(caption, columns, rows, note)


def render(template: str, context: Mapping[str, object]) -> str:
    """Return a template of ``templates/`` with the values of ``context``."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    # Imported here, because `overlay sim` answers questions that need no report without it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        autoescape=True,
        finalize=_shown,
        keep_trailing_newline=True,
        loader=FileSystemLoader(_TEMPLATES),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,  # a name that a template spells wrongly is an error
    )


def _shown(value: object) -> object:
    """Replace characters that HTML does not permit, in text and in markup; escaping follows."""
    return type(value)(permitted(value)) if isinstance(value, str) else value
